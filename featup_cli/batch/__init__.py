"""`featup upsample` over many pictures: find them, skip those that are done, and run the rest.

`inputs` and `names` list the items, `masks` finds their masks, `shards` takes a part of them, `resume` finds results
that are up to date or must not be lost, `claims` keeps runs apart, `job` says what a worker does, `worker` does it,
`workers` runs several processes, `ray_engine` runs workers on a cluster, and `run` joins all of these. Torch is loaded
with the first worker.
"""
