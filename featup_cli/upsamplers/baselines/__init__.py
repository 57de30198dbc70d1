"""Trained upsamplers of others, for comparison: they share the call, the files and the training of ours.

Most double the grid until it reaches the output, with one set of parameters for every doubling, as feature upsamplers
of this family are used at high ratios (ReSFU, figure 9). `mixing` holds what CARAFE, SAPA, FADE, DySample, PAC,
IndexNet and A2U share: they mix pixels with weights that all channels share. `convolution` holds what PixelShuffle,
deconvolution and resize-convolution share: they mix channels too. LIIF and IFA (`local`) and DGF give any size at once.
"""
