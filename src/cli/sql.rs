//! `sql`: one reading statement.

use super::Context;
use crate::connect;
use crate::exit::{Done, Outcome};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A SELECT over the views windows, predictions, anomalies, runs, dead_letters, progress …
    #[arg(allow_hyphen_values = true)] // it may begin with a comment
    statement: String,
    /// How the rows are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub(super) async fn run(args: &Args, context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    let result = context.shutdown.unless(store.query(&args.statement)).await??;
    output::print(&output::query(&result, args.format));
    Ok(Done::All)
}
