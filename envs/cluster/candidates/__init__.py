"""The ``candidates`` form of actions: a padded set of macro-actions, offered anew after each choice."""
