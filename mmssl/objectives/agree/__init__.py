"""Two views agree: the one machine behind contrast, self-distillation and CLIP, and its parts."""

from mmssl.objectives.agree.clip import Clip as Clip
from mmssl.objectives.agree.contrast import Contrast as Contrast
from mmssl.objectives.agree.distill import Distill as Distill
