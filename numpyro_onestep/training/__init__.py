"""How the flow learns: objectives, optimiser steps, the plan, evaluation and when to stop.

In: a `Problem` (base and target), a `Plan` and a key. Out: a `TrainState` with the best network. Networks are judged by
the weights of their draws, so this folder stands above `draws`. Open `fit.py` first.
"""
