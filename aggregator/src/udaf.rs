//! The one aggregate function: a struct of mergeable fields per group, over columns.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, TimestampMicrosecondType};
use datafusion_common::{Result, internal_err, not_impl_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility, utils::format_state_name,
};
use fleetscore_schemas::delta::timestamp_type;
use fleetscore_state::{Partials, state_type};
use std::sync::Arc;

/// `partial_of(ts, value)`: the mergeable aggregate of [`fleetscore_schemas::delta`] as a struct, for plans in one stage.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartialOf {
    signature: Signature,
}

impl PartialOf {
    pub(crate) fn new() -> Self {
        Self { signature: Signature::exact(vec![timestamp_type(), DataType::Float64], Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for PartialOf {
    fn name(&self) -> &str {
        "partial_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(state_type())
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "state"), state_type(), false))])
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("`partial_of` aggregates by group only")
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(PartialGroups::default()))
    }
}

/// The shell around [`Partials`], which holds the loops.
#[derive(Debug, Default)]
struct PartialGroups {
    partials: Partials,
}

impl GroupsAccumulator for PartialGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let (ts, value) = readings(values)?;
        if opt_filter.is_some() {
            return not_impl_err!("`partial_of` with a filter");
        }
        self.partials.update(ts, value, group_indices, total_num_groups);
        Ok(())
    }

    fn merge_batch(
        &mut self,
        _values: &[ArrayRef],
        _group_indices: &[usize],
        _total_num_groups: usize,
    ) -> Result<()> {
        // Parts have no group in common, and nothing is spilled.
        internal_err!("`partial_of` never has states to merge")
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        match emit_to {
            EmitTo::All => Ok(self.partials.take()),
            EmitTo::First(_) => internal_err!("`partial_of` gives its groups at the end, all of them"),
        }
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn convert_to_state(
        &self,
        _values: &[ArrayRef],
        _opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        not_impl_err!("`partial_of` always groups")
    }

    fn size(&self) -> usize {
        self.partials.size()
    }
}

fn readings(values: &[ArrayRef]) -> Result<(&[i64], &[f64])> {
    let [ts, value] = values else { return internal_err!("two columns, not {}", values.len()) };
    match (ts.as_primitive_opt::<TimestampMicrosecondType>(), value.as_primitive_opt::<Float64Type>()) {
        (Some(ts), Some(value)) if ts.null_count() == 0 && value.null_count() == 0 => {
            Ok((ts.values(), value.values()))
        }
        _ => {
            internal_err!("times and values without nulls, not {} and {}", ts.data_type(), value.data_type())
        }
    }
}
