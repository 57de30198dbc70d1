"""ReSFU: upsampling by the similarity of queries and keys, in one step at any ratio.

As in its figure: `query`, `key`, `guided_filter`, which aligns the query with the key, semantic and detail `scores`,
and the fine neighbour `selection`, which turns scores into weights and mixes the features with them.

All maps are made by rows: `plan` says how many at a time and which are kept, `rows` keeps them, and `statistics`
gathers what group norms need to know of whole maps. With gradients all rows are one band, and every map is kept.
"""
