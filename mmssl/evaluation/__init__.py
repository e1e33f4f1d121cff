"""What a frozen model's features are worth, beside raw features and random weights."""

from mmssl.evaluation.features import Features as Features
from mmssl.evaluation.features import embed as embed
from mmssl.evaluation.features import extract as extract
from mmssl.evaluation.features import random_init as random_init
from mmssl.evaluation.features import raw_features as raw_features
from mmssl.evaluation.judged import Judged as Judged
from mmssl.evaluation.pair_data import asked_pairs as asked_pairs
from mmssl.evaluation.pair_data import open_pairs as open_pairs
from mmssl.evaluation.paired import PAIR_PROTOCOL as PAIR_PROTOCOL
from mmssl.evaluation.paired import PairEvaluator as PairEvaluator
from mmssl.evaluation.protocol import PROTOCOL as PROTOCOL
from mmssl.evaluation.protocol import Evaluator as Evaluator
from mmssl.evaluation.protocol import choose_modality as choose_modality
from mmssl.evaluation.sources import EvaluateOptions as EvaluateOptions
from mmssl.evaluation.sources import Sources as Sources
from mmssl.evaluation.sources import ZeroShotOptions as ZeroShotOptions
from mmssl.evaluation.sources import fifth_of as fifth_of
from mmssl.evaluation.sources import open_sources as open_sources
from mmssl.evaluation.table import RETRIEVAL as RETRIEVAL
from mmssl.evaluation.table import SCORES as SCORES
from mmssl.evaluation.table import ZERO_SHOT as ZERO_SHOT
from mmssl.evaluation.table import PairRow as PairRow
from mmssl.evaluation.table import PairTable as PairTable
from mmssl.evaluation.table import Row as Row
from mmssl.evaluation.table import Shown as Shown
from mmssl.evaluation.table import Table as Table
