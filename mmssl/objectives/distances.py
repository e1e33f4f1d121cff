"""What `mmssl.objectives.predict.distances` has, by the path that other packages import it from."""

from mmssl.objectives.predict.distances import L1 as L1
from mmssl.objectives.predict.distances import LOSSES as LOSSES
from mmssl.objectives.predict.distances import Chamfer as Chamfer
from mmssl.objectives.predict.distances import Cosine as Cosine
from mmssl.objectives.predict.distances import CrossEntropy as CrossEntropy
from mmssl.objectives.predict.distances import InfoNce as InfoNce
from mmssl.objectives.predict.distances import Loss as Loss
from mmssl.objectives.predict.distances import Mse as Mse
from mmssl.objectives.predict.distances import PerToken as PerToken
from mmssl.objectives.predict.distances import Regression as Regression
from mmssl.objectives.predict.distances import SameSample as SameSample
from mmssl.objectives.predict.distances import SmoothL1 as SmoothL1
from mmssl.objectives.predict.distances import Weight as Weight
