"""Raw rows, their labels, the order in which a run visits them, and batches of them."""

from mmssl.data.batch import Batch as Batch
from mmssl.data.batch import with_others as with_others
from mmssl.data.budget import BudgetOrder as BudgetOrder
from mmssl.data.labels import Labels as Labels
from mmssl.data.loader import batches as batches
from mmssl.data.loader import cut as cut
from mmssl.data.loader import loader as loader
from mmssl.data.mix import Mixture as Mixture
from mmssl.data.options import DataOptions as DataOptions
from mmssl.data.options import Stream as Stream
from mmssl.data.options import open_streams as open_streams
from mmssl.data.order import Order as Order
from mmssl.data.raw import raw_samples as raw_samples
from mmssl.data.source import Source as Source
from mmssl.data.track import Track as Track
from mmssl.data.track import silent as silent
