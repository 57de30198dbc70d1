"""Implicit FeatUp: a field fitted to jittered views of one picture.

`views` draws the views, `observe` runs the backbone on them, `anchor` initialises, `model` holds what is fitted,
`downsample` and `losses` compare it with what was seen, `fit` optimises, `saved` keeps the result, and `upsampler`
puts it behind the call that all upsamplers share.
"""
