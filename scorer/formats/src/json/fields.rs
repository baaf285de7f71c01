//! The fields of a model in JSON. A matrix is read row by row into one vector: no list of lists is ever made.

use crate::numbers::{Matrix, Numbers};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// One object as it stands in the file. A field of another name is refused: a `scale` that is misspelt would change what
/// the model says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    device: Option<Name>,
    sensor: Option<Name>,
    name: Option<Name>,
    features: Option<Vec<String>>,
    kernel: Option<String>,
    gamma: Option<f64>,
    coef0: Option<f64>,
    degree: Option<f64>,
    mean: Option<Vec<f64>>,
    scale: Option<Vec<f64>>,
    support_vectors: Option<Matrix>,
    dual_coef: Option<Matrix>,
    rho: Option<Single>,
    intercept: Option<Single>,
    rows: Option<u64>,
    check: Option<Check>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    x: Matrix,
    decision: Matrix,
}

impl Fields {
    pub(super) fn numbers(self) -> Numbers {
        let (check_x, check_decision) = self.check.map(|c| (c.x, c.decision.data)).unzip();
        Numbers {
            device: self.device.map(|n| n.0),
            sensor: self.sensor.map(|n| n.0),
            name: self.name.map(|n| n.0),
            features: self.features,
            kernel: self.kernel,
            gamma: self.gamma,
            coef0: self.coef0,
            degree: self.degree,
            mean: self.mean,
            scale: self.scale,
            support_vectors: self.support_vectors,
            // As scikit-learn has it, with a row for its one class, or without.
            dual_coef: self.dual_coef.map(|m| m.data),
            rho: self.rho.map(|n| n.0),
            intercept: self.intercept.map(|n| n.0),
            rows: self.rows,
            check_x,
            check_decision,
            single_precision: false,
        }
    }
}

/// A text, or a whole number as devices are often called.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of;
        impl Visitor<'_> for Of {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a whole number")
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Name, E> {
                Ok(Name(v.to_owned()))
            }
            fn visit_string<E: Error>(self, v: String) -> Result<Name, E> {
                Ok(Name(v))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Name, E> {
                Ok(Name(v.to_string()))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Name, E> {
                Ok(Name(v.to_string()))
            }
        }
        deserializer.deserialize_any(Of)
    }
}

/// A number, alone or as the one value of a list.
struct Single(f64);

impl<'de> Deserialize<'de> for Single {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut matrix = Matrix::default();
        deserializer.deserialize_any(Cell(&mut matrix, 0))?;
        match matrix.data[..] {
            [v] => Ok(Self(v)),
            _ => Err(D::Error::custom(format!("{} numbers instead of one", matrix.data.len()))),
        }
    }
}

impl<'de> Deserialize<'de> for Matrix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut matrix = Self::default();
        deserializer.deserialize_any(Cell(&mut matrix, 0))?;
        Ok(matrix)
    }
}

/// A place in a matrix: the whole, a row (depth 1), or a number in a row (depth 2).
struct Cell<'a>(&'a mut Matrix, u8);

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.1 {
            0 => "numbers, or rows of numbers",
            1 => "a number, or a row of numbers",
            _ => "a number",
        })
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        if self.1 == 1 && self.0.width.is_some() {
            return Err(E::custom("a number between rows"));
        }
        self.0.data.push(v);
        Ok(())
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.visit_f64(v as f64)
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.visit_f64(v as f64)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self(matrix, depth) = self;
        let start = matrix.data.len();
        match depth {
            0 => while items.next_element_seed(Cell(matrix, 1))?.is_some() {},
            1 => {
                while items.next_element_seed(Cell(matrix, 2))?.is_some() {}
                let width = matrix.data.len() - start;
                if matrix.width.is_none() && start > 0 {
                    return Err(A::Error::custom("a row between numbers"));
                }
                if *matrix.width.get_or_insert(width) != width {
                    return Err(A::Error::custom(format!(
                        "row {} has {width} numbers, and those before have {}",
                        matrix.rows,
                        matrix.width.unwrap_or_default()
                    )));
                }
                matrix.rows += 1;
            }
            _ => return Err(A::Error::custom("a list within a row")),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Err(A::Error::custom("an object instead of numbers"))
    }
}
