"""What `mmssl.objectives.predict.targets` has, by the path that other packages import it from."""

from mmssl.objectives.predict.targets import TARGETS as TARGETS
from mmssl.objectives.predict.targets import Aspect as Aspect
from mmssl.objectives.predict.targets import Assignments as Assignments
from mmssl.objectives.predict.targets import Clusters as Clusters
from mmssl.objectives.predict.targets import Embedding as Embedding
from mmssl.objectives.predict.targets import Encoding as Encoding
from mmssl.objectives.predict.targets import Gradients as Gradients
from mmssl.objectives.predict.targets import Hidden as Hidden
from mmssl.objectives.predict.targets import Hog as Hog
from mmssl.objectives.predict.targets import Latent as Latent
from mmssl.objectives.predict.targets import Normalised as Normalised
from mmssl.objectives.predict.targets import Position as Position
from mmssl.objectives.predict.targets import Quantised as Quantised
from mmssl.objectives.predict.targets import RandomCodes as RandomCodes
from mmssl.objectives.predict.targets import Raw as Raw
from mmssl.objectives.predict.targets import Rendered as Rendered
from mmssl.objectives.predict.targets import Target as Target
from mmssl.objectives.predict.targets import Teacher as Teacher
