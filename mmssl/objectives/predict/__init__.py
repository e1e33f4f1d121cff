"""Hide and predict: the one machine behind masked modelling and JEPA, and its parts."""

from mmssl.objectives.predict.jepa import Jepa as Jepa
from mmssl.objectives.predict.masked import Masked as Masked
from mmssl.objectives.predict.predict import Predict as Predict
