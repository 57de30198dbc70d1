"""Multi-view reconstruction (FeatUp, section 3): what fitting one picture and training an upsampler share.

`views` draws jittered views of a picture and maps positions between them, `windows` says where the features lie that
make a token, `lookup` reads grids there, `downsample` pools what was found, `losses` compares the result with what the
backbone said, `optimize` holds optimisers and learning rates, `precision` says how products are computed, and `capture`
makes a step one CUDA graph.
"""
