"""A recipe is data: YAML that is parsed, checked against the signatures of the constructors that it names, and never executed."""

from mmssl.recipe.recipe import Recipe as Recipe
from mmssl.recipe.recipe import RecipeError as RecipeError
from mmssl.recipe.recipe import changed_keys as changed_keys
from mmssl.recipe.recipe import find_recipe as find_recipe
from mmssl.recipe.recipe import json_schema as json_schema
from mmssl.recipe.recipe import load as load
from mmssl.recipe.recipe import override as override
