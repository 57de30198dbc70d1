"""ReSFU: upsampling by the similarity of queries and keys, in one step at any ratio.

`keys` reads keys one low-resolution pixel apart, `guided_filter` aligns the query with them, `similarity` compares
them, and `upsampler` turns scores into weights and mixes the features with them.
"""
