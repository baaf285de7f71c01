//! Which columns the files have: said once, for the writer and for the check of what is read.

use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow_ipc::{Field as FoundField, Precision, Type};
use std::collections::HashMap;
use std::sync::Arc;

/// What a column holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    U8,
    U32,
    F64,
    Text,
    /// Text by keys into a dictionary.
    Words,
    /// So many f64 in each row.
    Numbers(usize),
    /// A list of structs.
    Structs(Vec<(&'static str, Shape)>),
}

/// One column of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
    /// Left out where it would hold nothing but defaults.
    pub(crate) optional: bool,
}

/// The columns of a shard, in order.
pub(crate) fn shard(features: usize) -> Vec<Column> {
    let column = |name, shape| Column { name, shape, nullable: false, optional: false };
    let optional = |name, shape| Column { optional: true, ..column(name, shape) };
    let nullable = |name, shape| Column { nullable: true, ..optional(name, shape) };
    let vectors = vec![("coef", Shape::F64), ("vector", Shape::Numbers(features))];
    let normal = vec![("from", Shape::F64), ("to", Shape::F64)];
    vec![
        column("series", Shape::U32),
        column("device", Shape::Words),
        column("sensor", Shape::Words),
        nullable("model", Shape::Text),
        nullable("refused", Shape::Text),
        column("rows", Shape::U32),
        column("kernel", Shape::U8),
        column("gamma", Shape::F64),
        column("rho", Shape::F64),
        optional("coef0", Shape::F64),
        optional("degree", Shape::U32),
        column("mean", Shape::Numbers(features)),
        column("scale", Shape::Numbers(features)),
        column("vectors", Shape::Structs(vectors)),
        nullable("normal", Shape::Structs(normal)),
    ]
}

/// The columns of a file of check vectors, in order.
pub(crate) fn checks(features: usize) -> Vec<Column> {
    let column = |name, shape| Column { name, shape, nullable: false, optional: false };
    vec![
        column("entry", Shape::U32),
        column("input", Shape::Numbers(features)),
        column("decision", Shape::F64),
    ]
}

/// The Arrow schema of these columns.
pub(crate) fn schema(columns: &[Column], metadata: HashMap<String, String>) -> Schema {
    let fields: Vec<Field> =
        columns.iter().map(|c| Field::new(c.name, c.shape.data_type(), c.nullable)).collect();
    Schema::new_with_metadata(fields, metadata)
}

impl Shape {
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::U8 => DataType::UInt8,
            Self::U32 => DataType::UInt32,
            Self::F64 => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Words => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            Self::Numbers(n) => DataType::FixedSizeList(number_item(), *n as i32),
            Self::Structs(fields) => DataType::List(struct_item(struct_fields(fields))),
        }
    }

    /// Whether a field that was read is of this shape.
    fn fits(&self, field: &FoundField<'_>) -> bool {
        let child = |i: usize| field.children().and_then(|c| c.iter().nth(i));
        let children = field.children().map_or(0, |c| c.len());
        let integer = |bits: i32, signed: bool| {
            field.type_as_int().is_some_and(|t| t.bitWidth() == bits && t.is_signed() == signed)
        };
        if (field.dictionary().is_some()) != (*self == Self::Words) {
            return false;
        }
        match self {
            Self::U8 => children == 0 && integer(8, false),
            Self::U32 => children == 0 && integer(32, false),
            Self::F64 => {
                children == 0
                    && field.type_as_floating_point().is_some_and(|t| t.precision() == Precision::DOUBLE)
            }
            Self::Text => children == 0 && field.type_type() == Type::Utf8,
            Self::Words => {
                let index = field.dictionary().and_then(|d| d.indexType());
                // An absent type of the keys means signed 32 bits.
                let keys = index.is_none_or(|t| t.bitWidth() == 32 && t.is_signed());
                children == 0 && field.type_type() == Type::Utf8 && keys
            }
            Self::Numbers(n) => {
                children == 1
                    && field
                        .type_as_fixed_size_list()
                        .is_some_and(|t| usize::try_from(t.listSize()).is_ok_and(|found| found == *n))
                    && child(0).is_some_and(|c| Self::F64.fits(&c) && !c.nullable())
            }
            Self::Structs(fields) => {
                let all = |found: FoundField<'_>| {
                    found.type_type() == Type::Struct_
                        && !found.nullable()
                        && found.children().is_some_and(|c| {
                            c.len() == fields.len()
                                && c.iter().zip(fields).all(|(found, (name, shape))| {
                                    found.name() == Some(*name) && !found.nullable() && shape.fits(&found)
                                })
                        })
                };
                children == 1 && field.type_type() == Type::List && child(0).is_some_and(all)
            }
        }
    }
}

impl Column {
    /// Whether a field that was read is this column.
    pub(crate) fn fits(&self, field: &FoundField<'_>) -> bool {
        field.name() == Some(self.name) && field.nullable() == self.nullable && self.shape.fits(field)
    }
}

/// The field of the numbers in [`Shape::Numbers`].
pub(crate) fn number_item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Float64, false))
}

/// The field of the structs in [`Shape::Structs`].
pub(crate) fn struct_item(fields: Fields) -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(fields), false))
}

/// The fields of the structs in [`Shape::Structs`].
pub(crate) fn struct_fields(fields: &[(&'static str, Shape)]) -> Fields {
    fields.iter().map(|(name, shape)| Field::new(*name, shape.data_type(), false)).collect()
}
