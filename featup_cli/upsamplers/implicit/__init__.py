"""Implicit FeatUp: a field fitted to jittered views of one picture.

`observe` runs the backbone on the views, `anchor` initialises, `model` holds what is fitted, `sampler` says where
tokens lie, `loss` pools and compares, `fit` optimises, `saved` keeps the result, and `upsampler` puts it behind the
call that all upsamplers share. Views, downsamplers and losses are those of `featup_cli.multiview`.
"""
