"""`featup upsample` over many pictures: which ones, what is done already, and the run itself.

`inputs` and `names` make the list of items, `shards` takes a part of it, `resume` tells what is up to date, `claims`
keeps runs apart, `job` is what one worker does with a stream of items, `workers` has several of them, `ray_engine` has
them on a cluster, `run` joins all.
"""
