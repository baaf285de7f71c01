//! `migrate`: the store's tables, under a lock.

use super::Context;
use crate::exit::{Done, Outcome};
use crate::{connect, output};
use fleetscore_settings::mask;

pub(super) async fn run(context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    let id = store.store_id().await?;
    output::print(&format!("{} is up to date (store {id})", mask::text(&context.config.store)));
    Ok(Done::All)
}
