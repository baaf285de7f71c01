//! The stack machine of pickles, protocols 0 to 5, building a tree and executing nothing.
//!
//! Opcodes as documented in CPython's `pickletools.py`. Values are small and copied; what can be shared or changed
//! after it was pushed lives in an arena and is named by its index, so that memo references and cycles cost nothing and
//! nothing here recurses. Every opcode pushes at most one value and makes at most one node, and only a call copies what
//! was there before, of which few are read: memory is bounded by the input's size and less than 300 bytes for each of at
//! most [`MAX_OPCODES`] opcodes.

mod global;
mod input;

use super::PickleError;
use super::numpy;
pub use global::Global;
use input::shown;
use std::collections::HashMap;

/// Most opcodes that are read: a model has a few hundred, and three for each name of a feature.
pub const MAX_OPCODES: usize = 1 << 16;
/// Most noted calls: a model has a few dozen. Each copies its arguments, which may be one memoised tuple.
const MAX_CALLS: usize = 1 << 12;
/// Most arguments of a call: of those on the list, `_frombuffer` has the most, four.
const MAX_ARGUMENTS: usize = 8;
/// Most joblib arrays: each is measured when its BUILD is read.
const MAX_JOBLIB_ARRAYS: usize = 256;
/// Most pairs in a joblib array's state, which has six.
const MAX_JOBLIB_PAIRS: usize = 32;

/// A value: small ones as they are, the rest by their place in the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// None
    None,
    /// True or False
    Bool(bool),
    /// An int that fits.
    Int(i64),
    /// An int of more than 64 bits; nothing we read has one.
    HugeInt,
    /// A float.
    Float(f64),
    /// A str.
    Text(&'a str),
    /// Bytes, a bytearray, or the 8-bit str of Python 2.
    Bytes(&'a [u8]),
    /// A place in the arena.
    Node(usize),
}

/// What lives in the arena.
#[derive(Debug, Clone, PartialEq)]
pub enum Node<'a> {
    /// A str that was written with escapes.
    Text(String),
    /// Bytes that were written with escapes.
    Bytes(Vec<u8>),
    /// A tuple, list, set or frozenset.
    Sequence(Vec<Value<'a>>),
    /// A dict: pairs in the order they were set, a later one wins.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A name from the list.
    Global(Global),
    /// What would have been made by a call.
    Object(Object<'a>),
}

/// A noted call: nothing was executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<'a> {
    /// The class or function.
    pub class: Global,
    /// Its arguments.
    pub args: Vec<Value<'a>>,
    /// The state it was given afterwards.
    pub state: Option<Value<'a>>,
    /// Bytes that follow a joblib array in the file.
    pub raw: Option<&'a [u8]>,
}

/// The values of one pickle.
#[derive(Debug)]
pub struct Tree<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    /// What the pickle is of.
    pub root: Value<'a>,
}

type Result<T> = std::result::Result<T, PickleError>;

impl<'a> Tree<'a> {
    /// Builds the tree.
    ///
    /// # Errors
    /// [`PickleError`] with the byte offset.
    pub fn read(input: &'a [u8]) -> Result<Self> {
        if input.len() > super::MAX_BYTES {
            return Err(PickleError::TooLarge {
                what: "bytes",
                limit: super::MAX_BYTES,
                at: super::MAX_BYTES,
            });
        }
        let mut machine = Machine {
            input,
            pos: 0,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            calls: 0,
            joblib_arrays: 0,
            opcodes: 0,
            inner: false,
            tree: Self { nodes: Vec::new(), root: Value::None },
        };
        machine.tree.root = machine.run()?;
        Ok(machine.tree)
    }

    /// Items of a tuple or list.
    pub fn sequence(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.node(value)? {
            Node::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The noted call behind a value.
    pub fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match self.node(value)? {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The global behind a value.
    pub fn global(&self, value: Value<'a>) -> Option<Global> {
        match self.node(value)? {
            Node::Global(global) => Some(*global),
            _ => None,
        }
    }

    /// A dict's entry of this name.
    pub fn entry(&self, dict: Value<'a>, name: &str) -> Option<Value<'a>> {
        match self.node(dict)? {
            Node::Dict(pairs) => pairs.iter().rev().find(|(k, _)| self.is_text(*k, name)).map(|(_, v)| *v),
            _ => None,
        }
    }

    /// Whether [`Tree::text`] gives this; a key of any length costs no more than the name.
    fn is_text(&self, value: Value<'a>, name: &str) -> bool {
        match (value, self.node(value)) {
            (Value::Text(text), _) => text == name,
            (Value::Bytes(bytes), _) => bytes == name.as_bytes(),
            (_, Some(Node::Text(text))) => text == name,
            (_, Some(Node::Bytes(bytes))) => bytes == name.as_bytes(),
            _ => false,
        }
    }

    /// How many pairs a dict has, those included that a later one of the same key replaces.
    pub fn pairs(&self, dict: Value<'a>) -> Option<usize> {
        match self.node(dict)? {
            Node::Dict(pairs) => Some(pairs.len()),
            _ => None,
        }
    }

    /// A str, of Python 2 also if it is ASCII.
    pub fn text(&self, value: Value<'a>) -> Option<&str> {
        match value {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => match self.node(value)? {
                Node::Text(text) => Some(text),
                Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
                _ => None,
            },
        }
    }

    /// The node behind a value.
    pub fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }
}

struct Machine<'a> {
    input: &'a [u8],
    /// The next byte.
    pos: usize,
    /// Offset of the opcode being read.
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    /// Noted calls.
    calls: usize,
    /// Those of them that are joblib arrays and were measured.
    joblib_arrays: usize,
    /// Opcodes read.
    opcodes: usize,
    /// Whether this is the pickle of a joblib array of objects, within the file's own.
    inner: bool,
    tree: Tree<'a>,
}

impl<'a> Machine<'a> {
    /// Up to STOP: the value that is left.
    fn run(&mut self) -> Result<Value<'a>> {
        while self.opcodes < MAX_OPCODES {
            self.opcodes += 1;
            self.at = self.pos;
            let opcode = self.bytes(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            if !(self.literal(opcode)? || self.container(opcode)? || self.memo_or_stack(opcode)?) {
                self.object_opcode(opcode)?;
            }
        }
        Err(PickleError::TooLarge { what: "opcodes", limit: MAX_OPCODES, at: self.at })
    }

    // --- opcodes ------------------------------------------------------------------------------------------------

    /// Opcodes that push one value of their own; false if it is none of these.
    fn literal(&mut self, opcode: u8) -> Result<bool> {
        let value = match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(i64::from(self.bytes(1)?[0])),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            0x8a => {
                let n = self.bytes(1)?[0];
                self.long(u64::from(n))?
            }
            0x8b => {
                let n = i32::from_le_bytes(self.array()?);
                self.long(u64::try_from(n).map_err(|_| self.malformed("a LONG4 of negative length"))?)?
            }
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            b'F' => Value::Float(self.number("a FLOAT")?),
            b'I' => self.int_line()?,
            b'L' => self.long_line()?,
            b'S' => self.quoted_line()?,
            b'V' => self.escaped_line()?,
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.utf8(1)?,
            b'X' => self.utf8(4)?,
            0x8d => self.utf8(8)?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8; SHORT_BINSTRING, BINSTRING of Python 2
            b'C' | b'U' => self.counted(1)?,
            b'B' | b'T' => self.counted(4)?,
            0x8e | 0x96 => self.counted(8)?,
            _ => return Ok(false),
        };
        self.push(value);
        Ok(true)
    }

    /// Tuples, lists, sets and dicts; false if it is none of these.
    fn container(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            b')' | b']' | 0x8f => self.push_node(Node::Sequence(Vec::new())),
            b'}' => self.push_node(Node::Dict(Vec::new())),
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let start = self.above_mark(n)?;
                let items = self.stack.split_off(start);
                self.push_node(Node::Sequence(items));
            }
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_node(Node::Sequence(items));
            }
            b'd' => {
                let pairs = self.pop_pairs()?;
                self.push_node(Node::Dict(pairs));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = self.pop_pairs()?;
                self.set_items(pairs)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The memo, marks, frames and the stack itself; false if it is none of these.
    fn memo_or_stack(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            0x80 => {
                let protocol = self.bytes(1)?[0];
                if protocol > 5 {
                    return Err(self.malformed(format!("protocol {protocol}, which is not known")));
                }
            }
            0x95 => {
                let wanted = usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
                let left = self.input.len() - self.pos;
                if wanted > left {
                    return Err(PickleError::Truncated { at: self.at, wanted, left });
                }
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // POP of a MARK drops the mark.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.push(top);
            }
            b'p' => {
                let index = self.number("a PUT")?;
                self.put(index)?;
            }
            b'q' => {
                let index = self.bytes(1)?[0];
                self.put(u64::from(index))?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.put(u64::from(index))?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'g' => {
                let index = self.number("a GET")?;
                self.get(index)?;
            }
            b'h' => {
                let index = self.bytes(1)?[0];
                self.get(u64::from(index))?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.get(u64::from(index))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Globals and objects; everything that is left is refused.
    fn object_opcode(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let both = self.tree.text(module).zip(self.tree.text(name));
                let Some((module, name)) = both.map(|(m, n)| (m.to_owned(), n.to_owned())) else {
                    return Err(self.malformed("a STACK_GLOBAL of something that is no text"));
                };
                self.push_global(&module, &name)
            }
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let args = self.arguments(args)?;
                self.call(callable, args)
            }
            0x92 => {
                let (kwargs, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                if !matches!(self.tree.node(kwargs), Some(Node::Dict(pairs)) if pairs.is_empty()) {
                    return Err(self.malformed("a NEWOBJ_EX with keyword arguments"));
                }
                let args = self.arguments(args)?;
                self.call(class, args)
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let args = self.pop_mark()?;
                self.push_global(module, name)?;
                let class = self.pop()?;
                self.call(class, args)
            }
            b'o' => {
                let mut args = self.pop_mark()?.into_iter();
                let class = args.next().ok_or_else(|| self.malformed("an OBJ without a class"))?;
                self.call(class, args.collect())
            }
            b'b' => self.build(),
            b'P' | b'Q' => {
                Err(self.malformed("a persistent id, which stands for something outside the file"))
            }
            0x82..=0x84 => Err(self.malformed("an extension code, which stands for an unknown global")),
            0x97 | 0x98 => Err(self.malformed("an out-of-band buffer, which is not in the file")),
            _ => Err(self.malformed(format!("an unknown opcode 0x{opcode:02x}"))),
        }
    }

    // --- objects ------------------------------------------------------------------------------------------------

    fn push_global(&mut self, module: &str, name: &str) -> Result<()> {
        let Some(global) = Global::named(module, name) else {
            let name = format!("{}.{}", shown(module), shown(name));
            return Err(PickleError::Global { name, at: self.at });
        };
        self.push_node(Node::Global(global));
        Ok(())
    }

    fn arguments(&self, args: Value<'a>) -> Result<Vec<Value<'a>>> {
        match self.tree.sequence(args) {
            // Longer than any call we know: refused before it is copied.
            Some(items) => {
                self.at_most(items.len(), MAX_ARGUMENTS, "arguments of a call")?;
                Ok(items.to_vec())
            }
            None => Err(self.malformed("a call whose arguments are no tuple")),
        }
    }

    /// Notes a call of a global.
    fn call(&mut self, callable: Value<'a>, mut args: Vec<Value<'a>>) -> Result<()> {
        let Some(mut class) = self.tree.global(callable) else {
            return Err(self.malformed("a call of something that is no global"));
        };
        self.calls += 1;
        self.at_most(self.calls, MAX_CALLS, "calls")?;
        self.at_most(args.len(), MAX_ARGUMENTS, "arguments of a call")?;
        if class == Global::OrderedDict && args.is_empty() {
            self.push_node(Node::Dict(Vec::new()));
            return Ok(());
        }
        if class == Global::Reconstructor {
            let of = args.first().and_then(|c| self.tree.global(*c));
            class = of.ok_or_else(|| self.malformed("a _reconstructor without a class"))?;
            args.clear();
        }
        self.push_node(Node::Object(Object { class, args, state: None, raw: None }));
        Ok(())
    }

    /// BUILD: hands the state to the object below it.
    fn build(&mut self) -> Result<()> {
        let (given, target) = (self.pop()?, self.top()?);
        let Value::Node(index) = target else {
            return Err(self.malformed("a BUILD of something that is no object"));
        };
        let Some(Node::Object(object)) = self.tree.nodes.get_mut(index) else {
            return Err(self.malformed("a BUILD of something that is no object"));
        };
        if object.state.is_some() {
            return Err(self.malformed("a second BUILD of one object"));
        }
        object.state = Some(given);
        if object.class == Global::JoblibArray {
            self.joblib_arrays += 1;
            self.at_most(self.joblib_arrays, MAX_JOBLIB_ARRAYS, "joblib arrays")?;
            let pairs = self.tree.pairs(given).unwrap_or(0);
            self.at_most(pairs, MAX_JOBLIB_PAIRS, "attributes of a joblib array")?;
            if numpy::joblib_of_objects(&self.tree, given) {
                let array = self.joblib_objects()?;
                if let Some(Node::Object(object)) = self.tree.nodes.get_mut(index) {
                    object.args = vec![array];
                }
                return Ok(());
            }
            let raw = self.joblib_bytes(given)?;
            if let Some(Node::Object(object)) = self.tree.nodes.get_mut(index) {
                object.raw = Some(raw);
            }
        }
        Ok(())
    }

    /// joblib writes an array's bytes right after its wrapper's BUILD: a byte that counts the padding, the padding,
    /// the data (`joblib/numpy_pickle.py`, `NumpyArrayWrapper.read_array`).
    fn joblib_bytes(&mut self, state: Value<'a>) -> Result<&'a [u8]> {
        let size = numpy::joblib_size(&self.tree, state)
            .map_err(|e| self.malformed(format!("a joblib array ({e})")))?;
        if self.tree.entry(state, "numpy_array_alignment_bytes").is_some_and(|v| v != Value::None) {
            let padding = usize::from(self.bytes(1)?[0]);
            self.bytes(padding)?;
        }
        self.bytes(size)
    }

    /// An array of objects is a pickle of its own there, with a stack and a memo of its own.
    fn joblib_objects(&mut self) -> Result<Value<'a>> {
        if self.inner {
            return Err(self.malformed("a joblib array of objects within another one"));
        }
        let outer = (
            std::mem::take(&mut self.stack),
            std::mem::take(&mut self.marks),
            std::mem::take(&mut self.memo),
        );
        self.inner = true;
        let array = self.run()?;
        self.inner = false;
        (self.stack, self.marks, self.memo) = outer;
        Ok(array)
    }

    fn at_most(&self, n: usize, limit: usize, what: &'static str) -> Result<()> {
        if n > limit {
            return Err(PickleError::TooLarge { what, limit, at: self.at });
        }
        Ok(())
    }

    // --- containers ---------------------------------------------------------------------------------------------

    fn extend(&mut self, items: Vec<Value<'a>>) -> Result<()> {
        if let Value::Node(index) = self.top()?
            && let Some(Node::Sequence(sequence)) = self.tree.nodes.get_mut(index)
        {
            sequence.extend(items);
            return Ok(());
        }
        Err(self.malformed("an APPEND to something that is no list"))
    }

    fn set_items(&mut self, pairs: Vec<(Value<'a>, Value<'a>)>) -> Result<()> {
        if let Value::Node(index) = self.top()?
            && let Some(Node::Dict(dict)) = self.tree.nodes.get_mut(index)
        {
            dict.extend(pairs);
            return Ok(());
        }
        Err(self.malformed("a SETITEM of something that is no dict"))
    }

    fn pop_pairs(&mut self) -> Result<Vec<(Value<'a>, Value<'a>)>> {
        let items = self.pop_mark()?;
        if items.len() % 2 == 1 {
            return Err(self.malformed("a dict with a key and no value"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    // --- stack and memo -----------------------------------------------------------------------------------------

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn push_node(&mut self, node: Node<'a>) {
        self.stack.push(Value::Node(self.tree.nodes.len()));
        self.tree.nodes.push(node);
    }

    /// Start of the topmost `n` values, which must lie above the last mark.
    fn above_mark(&self, n: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(start) if start >= floor => Ok(start),
            _ => Err(self.malformed("too few values on the stack")),
        }
    }

    fn top(&self) -> Result<Value<'a>> {
        Ok(self.stack[self.above_mark(1)?])
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("no MARK on the stack"))?;
        Ok(self.stack.split_off(mark))
    }

    fn put(&mut self, index: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, index: u64) -> Result<()> {
        match self.memo.get(&index) {
            Some(value) => self.stack.push(*value),
            None => return Err(self.malformed(format!("the memo has no entry {index}"))),
        }
        Ok(())
    }
}
