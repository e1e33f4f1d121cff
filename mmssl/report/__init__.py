"""What a run leaves for people: the report of the run, and the card of the model."""

from mmssl.report.card import model_card as model_card
from mmssl.report.forecasts import forecast_figure as forecast_figure
from mmssl.report.judged import judged_figures as judged_figures
from mmssl.report.page import write_report as write_report
from mmssl.report.places import Tagged as Tagged
from mmssl.report.places import places_figure as places_figure
from mmssl.report.places import tagged as tagged
from mmssl.report.verdict import verdict as verdict
