"""What `mmssl.objectives.predict.predictors` has, by the path that other packages import it from."""

from mmssl.objectives.predict.predictors import PREDICTORS as PREDICTORS
from mmssl.objectives.predict.predictors import Causal as Causal
from mmssl.objectives.predict.predictors import Conv as Conv
from mmssl.objectives.predict.predictors import CrossAttention as CrossAttention
from mmssl.objectives.predict.predictors import MaskToken as MaskToken
from mmssl.objectives.predict.predictors import Predictor as Predictor
from mmssl.objectives.predict.predictors import Siamese as Siamese
from mmssl.objectives.predict.predictors import Similar as Similar
from mmssl.objectives.predict.predictors import Transformer as Transformer
from mmssl.objectives.predict.predictors import Unordered as Unordered
