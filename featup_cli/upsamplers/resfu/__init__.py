"""ReSFU: upsampling by the similarity of queries and keys, in one step at any ratio.

`keys` reads keys one low-resolution pixel apart, `guided_filter` aligns the query with them, `similarity` compares
them, and `upsampler` turns scores into weights and mixes the features with them.

Without gradients the weights are made in bands of rows: `bands` passes over the rows, `plan` says how many at a time,
`rows` keeps as many as are needed again, and `statistics` gathers what group norms need to know of whole maps.
"""
