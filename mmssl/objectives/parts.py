"""What `mmssl.objectives.predict.parts` has, by the path that other packages import it from."""

from mmssl.objectives.predict.parts import Answer as Answer
from mmssl.objectives.predict.parts import Found as Found
from mmssl.objectives.predict.parts import Outline as Outline
from mmssl.objectives.predict.parts import Predicted as Predicted
from mmssl.objectives.predict.parts import Predictor as Predictor
from mmssl.objectives.predict.parts import Scene as Scene
from mmssl.objectives.predict.parts import Target as Target
from mmssl.objectives.predict.parts import anything as anything
from mmssl.objectives.predict.parts import has_target as has_target
from mmssl.objectives.predict.parts import moved as moved
