"""Joint bilateral upsampling: a stack of guided filters that serves every backbone.

`stage` makes the weights of one stage and filters with them, `stack` passes features through all stages, `upsampler`
is the learned upsampler, and `released` the authors' own variant, for their checkpoints.
"""
