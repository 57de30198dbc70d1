"""`featup upsample` over many pictures: find them, skip those that are done, and run the rest.

`inputs` and `names` list the items, `shards` takes a part of them, `resume` finds results that are up to date, `claims`
keeps runs apart, `job` is the work of one worker, `workers` runs several processes, `ray_engine` runs workers on a
cluster, and `run` joins all of these.
"""
