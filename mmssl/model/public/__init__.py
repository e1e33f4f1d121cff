"""Public encoders as starting points: what they hold, in terms of mmssl's encoder and of a modality's adapter.

A family of public encoders is data: how its configuration translates, and which of its weights are which of ours. The families
that read pictures, texts and sounds are listed by those modalities (`Modality.public`).
"""

from mmssl.model.public.bring import Public as Public
from mmssl.model.public.bring import is_public as is_public
from mmssl.model.public.bring import open_public as open_public
from mmssl.model.public.bring import saved_config as saved_config
from mmssl.model.public.bring import saved_processor as saved_processor
from mmssl.model.public.bring import told as told
from mmssl.model.public.source import Source as Source
from mmssl.model.public.table import Family as Family
from mmssl.model.public.table import Of as Of
from mmssl.model.public.table import Row as Row
from mmssl.model.public.two_towers import OPEN_CLIP as OPEN_CLIP
from mmssl.model.public.two_towers import find_two_towers as find_two_towers
from mmssl.model.public.two_towers import load_two_towers as load_two_towers
