//! NumPy arrays, scalars and dtypes as pickles describe them.

use super::opcodes::{Global, Node, Object, Tree, Value};
use std::borrow::Cow;

/// An array of numbers, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its shape, at most two numbers; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its values.
    pub data: Vec<f64>,
}

/// Longest name of a feature, in bytes.
const MAX_NAME: usize = 256;

/// What is wrong with an array; completes "`attribute` …".
type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Dtype {
    kind: u8,
    size: usize,
    big_endian: bool,
}

/// Reads an array of numbers, or a number as an array without dimensions.
///
/// # Errors
/// What is wrong, as the end of a sentence.
pub fn array<'a>(tree: &Tree<'a>, value: Value<'a>) -> Result<Array> {
    match value {
        Value::Float(v) => return Ok(Array { shape: vec![], data: vec![v] }),
        Value::Int(v) => return Ok(Array { shape: vec![], data: vec![v as f64] }),
        Value::Bool(v) => return Ok(Array { shape: vec![], data: vec![f64::from(u8::from(v))] }),
        _ => {}
    }
    let Some(object) = tree.object(value) else {
        return Err(format!("is {}, not an array of numbers", kind_of(tree, value)));
    };
    match object.class {
        Global::Reconstruct | Global::NdArray => reconstructed(tree, object),
        Global::FromBuffer => from_buffer(tree, object),
        Global::JoblibArray => joblib(tree, object),
        Global::Scalar => {
            let [dtype, data] = object.args[..] else {
                return Err("is a NumPy scalar without a value".into());
            };
            decode(read_dtype(tree, dtype)?, vec![], false, &raw_bytes(tree, data)?)
        }
        other => Err(format!("is a {other:?}, not an array of numbers")),
    }
}

/// Reads one number: an int, a float, a NumPy scalar, or an array of one value.
///
/// # Errors
/// What is wrong, as the end of a sentence.
pub fn number<'a>(tree: &Tree<'a>, value: Value<'a>) -> Result<f64> {
    match array(tree, value)?.data[..] {
        [v] => Ok(v),
        ref many => Err(format!("has {} values instead of one", many.len())),
    }
}

/// The texts of an array of objects, if it is one of texts only.
pub(crate) fn texts<'a>(tree: &Tree<'a>, value: Value<'a>) -> Option<Vec<String>> {
    let mut object = tree.object(value)?;
    if object.class == Global::JoblibArray {
        object = tree.object(*object.args.first()?)?;
    }
    let Some([_, _, dtype, _, items]) = object.state.and_then(|s| tree.sequence(s)) else { return None };
    let items = tree.sequence(*items)?;
    if !is_objects(tree, *dtype) || items.len() > fleetscore_kernel::MAX_FEATURES {
        return None;
    }
    items.iter().map(|item| tree.text(*item).filter(|t| t.len() <= MAX_NAME).map(str::to_owned)).collect()
}

/// Whether a dtype is of Python objects.
fn is_objects<'a>(tree: &Tree<'a>, dtype: Value<'a>) -> bool {
    let name =
        tree.object(dtype).filter(|o| o.class == Global::Dtype).and_then(|o| tree.text(*o.args.first()?));
    name.is_some_and(|n| n.trim_start_matches('|').starts_with('O'))
}

/// Whether a joblib array is one of Python objects, which are written as a pickle of their own.
pub(crate) fn joblib_of_objects<'a>(tree: &Tree<'a>, state: Value<'a>) -> bool {
    tree.entry(state, "dtype").is_some_and(|dtype| is_objects(tree, dtype))
}

/// `_reconstruct(ndarray, (0,), b'b')` with the state (version, shape, dtype, is_fortran, data).
fn reconstructed<'a>(tree: &Tree<'a>, object: &Object<'a>) -> Result<Array> {
    if object.class == Global::Reconstruct
        && object.args.first().and_then(|c| tree.global(*c)) != Some(Global::NdArray)
    {
        return Err("is not a plain numpy.ndarray".into());
    }
    let state = object.state.and_then(|s| tree.sequence(s));
    let Some([_, shape, dtype, fortran, data]) = state else {
        return Err("is an array without the five parts of its state".into());
    };
    let fortran = match fortran {
        Value::Bool(b) => *b,
        Value::Int(i) => *i != 0,
        _ => return Err("is an array without a memory order".into()),
    };
    decode(read_dtype(tree, *dtype)?, read_shape(tree, *shape)?, fortran, &raw_bytes(tree, *data)?)
}

/// `_frombuffer(buffer, dtype, shape, order)` of protocol 5.
fn from_buffer<'a>(tree: &Tree<'a>, object: &Object<'a>) -> Result<Array> {
    let [data, dtype, shape, order] = object.args[..] else {
        return Err("is an array over a buffer without its four parts".into());
    };
    let fortran = read_order(tree, order)?;
    decode(read_dtype(tree, dtype)?, read_shape(tree, shape)?, fortran, &raw_bytes(tree, data)?)
}

fn joblib<'a>(tree: &Tree<'a>, object: &Object<'a>) -> Result<Array> {
    let (Some(state), Some(raw)) = (object.state, object.raw) else {
        return Err("is a joblib array without its bytes".into());
    };
    let (dtype, shape) = joblib_parts(tree, state)?;
    let order = tree.entry(state, "order").ok_or("is a joblib array without a memory order")?;
    decode(dtype, shape, read_order(tree, order)?, raw)
}

/// How many bytes of data follow a joblib array.
///
/// # Errors
/// What is wrong, as the end of a sentence.
pub(crate) fn joblib_size<'a>(tree: &Tree<'a>, state: Value<'a>) -> Result<usize> {
    let (dtype, shape) = joblib_parts(tree, state)?;
    byte_size(dtype, &shape)
}

fn joblib_parts<'a>(tree: &Tree<'a>, state: Value<'a>) -> Result<(Dtype, Vec<usize>)> {
    let of = |name: &str| tree.entry(state, name).ok_or(format!("is a joblib array without its {name}"));
    if tree.global(of("subclass")?) != Some(Global::NdArray) {
        return Err("is not a plain numpy.ndarray".into());
    }
    Ok((read_dtype(tree, of("dtype")?)?, read_shape(tree, of("shape")?)?))
}

fn read_order<'a>(tree: &Tree<'a>, order: Value<'a>) -> Result<bool> {
    match tree.text(order) {
        Some("C" | "K" | "A") => Ok(false),
        Some("F") => Ok(true),
        _ => Err("is an array of unknown memory order".into()),
    }
}

fn read_shape<'a>(tree: &Tree<'a>, shape: Value<'a>) -> Result<Vec<usize>> {
    let items = tree.sequence(shape).ok_or("is an array without a shape")?;
    if items.len() > 2 {
        return Err(format!("has {} dimensions: a model's arrays have one or two", items.len()));
    }
    let size = |v: &Value<'_>| match v {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    items.iter().map(|v| size(v).ok_or_else(|| "has a shape that is not made of sizes".to_owned())).collect()
}

/// `dtype('f8', False, True)` with the state (version, byte order, …).
fn read_dtype<'a>(tree: &Tree<'a>, value: Value<'a>) -> Result<Dtype> {
    let object = tree.object(value).filter(|o| o.class == Global::Dtype);
    let Some(object) = object else { return Err("is an array without a dtype".into()) };
    let name = object.args.first().and_then(|v| tree.text(*v)).ok_or("is an array of an unnamed dtype")?;
    let refused = || format!("has the dtype `{}`, which is none of numbers", short(name));
    let order =
        object.state.and_then(|s| tree.sequence(s)).and_then(|s| s.get(1)).and_then(|o| tree.text(*o));
    let (prefix, code) = match name.as_bytes() {
        [p @ (b'<' | b'>' | b'=' | b'|'), rest @ ..] => (Some(*p), rest),
        rest => (None, rest),
    };
    let big_endian = order.map_or(prefix == Some(b'>'), |o| o == ">");
    let [kind, size @ ..] = code else { return Err(refused()) };
    let size: usize = std::str::from_utf8(size).ok().and_then(|s| s.parse().ok()).ok_or_else(refused)?;
    match (kind, size) {
        (b'f', 4 | 8) | (b'i' | b'u', 1 | 2 | 4 | 8) | (b'b', 1) => {
            Ok(Dtype { kind: *kind, size, big_endian })
        }
        _ => Err(refused()),
    }
}

fn byte_size(dtype: Dtype, shape: &[usize]) -> Result<usize> {
    let size = shape.iter().try_fold(dtype.size, |product, n| product.checked_mul(*n));
    size.ok_or_else(|| format!("has the impossible shape {shape:?}"))
}

fn decode(dtype: Dtype, shape: Vec<usize>, fortran: bool, raw: &[u8]) -> Result<Array> {
    let wanted = byte_size(dtype, &shape)?;
    if raw.len() != wanted {
        return Err(format!("has {} bytes, and its shape {shape:?} takes {wanted}", raw.len()));
    }
    let mut data: Vec<f64> = raw.chunks_exact(dtype.size).map(|b| element(dtype, b)).collect();
    if fortran && let [rows, columns] = shape[..] {
        data = (0..rows * columns).map(|i| data[(i % columns) * rows + i / columns]).collect();
    }
    Ok(Array { shape, data })
}

/// One value; `bytes` has the dtype's size.
fn element(dtype: Dtype, bytes: &[u8]) -> f64 {
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(0..dtype.size) {
        *to = bytes[if dtype.big_endian { dtype.size - 1 - from } else { from }];
    }
    let bits = u64::from_le_bytes(wide);
    let unused = 64 - 8 * dtype.size as u32;
    match (dtype.kind, dtype.size) {
        (b'f', 8) => f64::from_bits(bits),
        (b'f', _) => f64::from(f32::from_bits(bits as u32)),
        (b'i', _) => ((bits << unused) as i64 >> unused) as f64,
        (b'b', _) => f64::from(u8::from(bits != 0)),
        _ => bits as f64,
    }
}

/// Bytes as protocols 3 to 5 write them, or as protocol 2 does: `_codecs.encode(text, 'latin1')`.
fn raw_bytes<'t, 'a: 't>(tree: &'t Tree<'a>, value: Value<'a>) -> Result<Cow<'t, [u8]>> {
    match (value, tree.node(value)) {
        (Value::Bytes(bytes), _) => Ok(Cow::Borrowed(bytes)),
        (_, Some(Node::Bytes(bytes))) => Ok(Cow::Borrowed(bytes)),
        (_, Some(Node::Object(object))) => encoded(tree, object),
        _ => Err("is an array whose data are no bytes".into()),
    }
}

fn encoded<'t, 'a: 't>(tree: &'t Tree<'a>, object: &Object<'a>) -> Result<Cow<'t, [u8]>> {
    match (object.class, &object.args[..]) {
        (Global::Bytes, []) => Ok(Cow::Borrowed(&[])),
        (Global::Encode, [text, codec]) => {
            let codec = tree.text(*codec).unwrap_or_default();
            if !matches!(codec, "latin1" | "latin-1" | "iso-8859-1") {
                return Err(format!("is an array whose bytes are encoded as `{}`", short(codec)));
            }
            let text = tree.text(*text).ok_or("is an array whose encoded bytes are no text")?;
            let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
            bytes.map(Cow::Owned).ok_or_else(|| "is an array whose bytes are no Latin-1 text".into())
        }
        _ => Err("is an array whose data are no bytes".into()),
    }
}

/// What a value is, for a message.
pub(crate) fn kind_of<'a>(tree: &Tree<'a>, value: Value<'a>) -> String {
    match value {
        Value::None => "None".into(),
        Value::Bool(b) => if b { "True" } else { "False" }.into(),
        Value::Int(i) => i.to_string(),
        Value::HugeInt => "a huge integer".into(),
        Value::Float(v) => v.to_string(),
        Value::Text(t) => format!("'{}'", short(t)),
        Value::Bytes(_) => "bytes".into(),
        Value::Node(_) => match tree.node(value) {
            Some(Node::Text(t)) => format!("'{}'", short(t)),
            Some(Node::Bytes(_)) => "bytes".into(),
            Some(Node::Sequence(_)) => "a list or tuple".into(),
            Some(Node::Dict(_)) => "a dict".into(),
            Some(Node::Global(g)) => format!("the name {g:?}"),
            Some(Node::Object(o)) => format!("a {:?}", o.class),
            None => "nothing".into(),
        },
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect()
}
