//! `up`, `aggregate`, `score`: services.

use super::Context;
use crate::exit::Outcome;
use crate::roles::{self, Roles};

pub(super) async fn run(roles: Roles, context: &Context) -> Outcome {
    roles::run(&context.config, roles, &context.shutdown).await
}
