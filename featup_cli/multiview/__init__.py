"""Multi-view reconstruction (FeatUp, section 3), shared by the fit of one picture and the training of an upsampler.

`views` draws jittered views of a picture and maps positions between them, `windows` places the features of a token,
`lookup` reads grids there, `downsample` pools them, `losses` compares the result with the backbone's tokens, `optimize`
holds optimisers and learning rates, and `precision` sets how products are computed.
"""
