"""Ways to train a victim; a defense at training time is a recipe."""

from modelmoat.recipes.base import RECIPES, Recipe, TrainingJob, create_recipe, parse_recipe
from modelmoat.recipes.train import train_victim

__all__ = ["RECIPES", "Recipe", "TrainingJob", "create_recipe", "parse_recipe", "train_victim"]
