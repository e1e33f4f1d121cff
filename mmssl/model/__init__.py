"""The published model: configuration, encoder, pooling, and the face that Hugging Face knows."""

from mmssl.model.auto import MMSSLFeatureExtractor as MMSSLFeatureExtractor
from mmssl.model.auto import MMSSLImageProcessor as MMSSLImageProcessor
from mmssl.model.config import MMSSLConfig as MMSSLConfig
from mmssl.model.encoder import Encoder as Encoder
from mmssl.model.labels import LabelHead as LabelHead
from mmssl.model.layers import initialise_all as initialise_all
from mmssl.model.loading import no_weights_bar as no_weights_bar
from mmssl.model.model import MMSSLModel as MMSSLModel
from mmssl.model.tasks import MMSSLForClassification as MMSSLForClassification
from mmssl.model.tasks import MMSSLForLabels as MMSSLForLabels
from mmssl.model.tasks import MMSSLForRegression as MMSSLForRegression
from mmssl.model.tasks import MMSSLForTimeSeriesPrediction as MMSSLForTimeSeriesPrediction
from mmssl.model.tasks import faced as faced
from mmssl.model.tasks import load_model as load_model
from mmssl.model.tasks import load_predictor as load_predictor
