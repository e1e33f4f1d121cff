"""Sharing what was trained: a run as a repository of the Hub, or a model as a folder that needs no mmssl."""

from mmssl.publish.graph import export_onnx as export_onnx
from mmssl.publish.native import export_native as export_native
from mmssl.publish.place import Exported as Exported
from mmssl.publish.publishing import Pushed as Pushed
from mmssl.publish.publishing import push as push
from mmssl.publish.remote import export_remote_code as export_remote_code
