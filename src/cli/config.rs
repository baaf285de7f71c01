//! `config`: the effective settings.

use super::Context;
use crate::exit::Done;
use crate::output;

pub(super) fn run(context: &Context) -> Done {
    output::print(context.config.to_toml().trim_end());
    Done::All
}
