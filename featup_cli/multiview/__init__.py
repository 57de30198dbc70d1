"""Multi-view reconstruction (FeatUp, section 3): what fitting one picture and training an upsampler share.

`views` draws jittered views of a picture and maps positions between them, `windows` says where the features lie that
make a token, `downsample` pools them, `losses` compares the result with what the backbone said, and `optimize` holds
optimisers and learning rates.
"""
