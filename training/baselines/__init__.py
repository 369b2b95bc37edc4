"""What others do instead: baselines on the same data, with the same effort, in real bytes.

ann.py          a backbone with ReLU in place of spikes: the same convs, the same split points
rival.py        their names
codec.py        what a baseline sends: features to bytes and back, beside a differentiable stand-in
bottlenet.py    BottleNet: narrow features, tiled into an image, sent as JPEG
bottlenetpp.py  BottleNet++: sigmoid codes of 8 bits, noise while training
one_bit.py      a CNN's bottleneck of one bit, straight through, sent by the codecs of our spikes
jpeg.py         JPEG streams, and everything in the cloud: the picture itself, as JPEG
split_ann.py    backbone and codec as one model; no codec is everything on the edge
int8_edge.py    the edge half in 8-bit integers, quantised after training
fit.py          training, by the recipe of a spiking run
edge_cost.py    what is computed on the edge, layer by layer
evaluate.py     accuracy and bytes an image on real payloads
study.py        all of them on one data set, as rows
"""
