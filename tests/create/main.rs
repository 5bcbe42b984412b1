//! Create jobs with the real kiwi: a recipe becomes a registered image, and whatever goes wrong on
//! the way ends in a clear error. `scripts/test` makes the repository and the recipe.

mod build;
mod command;
mod failures;
mod import;
mod stop;
#[path = "../support/mod.rs"]
mod support;

use support::{pod, recipe as lab};
