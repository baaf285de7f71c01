//! Reads settings one by one out of the layers, notes every mistake instead of stopping at the first, and remembers
//! what was read for `fleetscore config`.

use super::{layers, mask};
use figment::Figment;
use figment::value::{Dict, Value};

/// One effective setting as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The table it is in; empty for the top.
    pub(crate) table: String,
    /// Its key.
    pub(crate) key: String,
    /// Its value as TOML, secrets masked; `None` where there is none.
    pub(crate) value: Option<String>,
    /// Where it came from.
    pub(crate) origin: String,
}

pub(super) struct Reader {
    figment: Figment,
    root: Dict,
    pub(super) mistakes: Vec<String>,
    pub(super) shown: Vec<Shown>,
}

/// A value that was given, and by what.
struct Given {
    value: Value,
    origin: String,
}

impl Reader {
    pub(super) fn new(figment: Figment) -> Self {
        let mut mistakes = Vec::new();
        // The empty path is the whole of it, each value with the tag of its layer.
        let root = figment.find_value("").map_err(|e| mistakes.push(e.to_string()));
        let root = root.ok().and_then(Value::into_dict).unwrap_or_default();
        Self { figment, root, mistakes, shown: Vec::new() }
    }

    fn take(&mut self, path: &[&str]) -> Option<Given> {
        let (key, tables) = path.split_last()?;
        let mut dict = &mut self.root;
        for table in tables {
            dict = match dict.get_mut(*table)? {
                Value::Dict(_, inner) => inner,
                _ => return None,
            };
        }
        let value = dict.remove(*key)?;
        let origin = layers::origin(&self.figment, &value, path);
        Some(Given { value, origin })
    }

    pub(super) fn mistake(&mut self, path: &[&str], what: &str, origin: &str) {
        self.mistakes.push(one_line(&format!("{}: {what} ({origin})", path.join("."))));
    }

    /// Where a setting that was read came from.
    pub(super) fn origin(&self, key: &str) -> String {
        let shown = self.shown.iter().rev().find(|s| s.table.is_empty() && s.key == key);
        shown.map_or(String::new(), |s| s.origin.clone())
    }

    pub(super) fn show(&mut self, path: &[&str], value: Option<String>, origin: &str) {
        let (key, tables) = path.split_last().unwrap_or((&"", &[]));
        self.shown.push(Shown {
            table: tables.join("."),
            key: (*key).to_owned(),
            value,
            origin: origin.to_owned(),
        });
    }

    /// A value made of one text; `default` is used where none is given, and in place of a mistaken one.
    pub(super) fn text<T>(
        &mut self,
        path: &[&str],
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> (T, String) {
        let given = self.take(path);
        let origin = given.as_ref().map_or("default".to_owned(), |g| g.origin.clone());
        let parsed = given.map(|g| scalar(&g.value).and_then(|t| parse(&t)));
        let value = match parsed {
            Some(Ok(v)) => v,
            other => {
                if let Some(Err(what)) = other {
                    self.mistake(path, &mask::text(&what), &origin);
                }
                parse(default).unwrap_or_else(|e| unreachable!("default of {}: {e}", path.join(".")))
            }
        };
        let shown = show(&value);
        self.show(path, Some(shown), &origin);
        (value, origin)
    }

    /// A text that may be absent; empty counts as absent.
    pub(super) fn optional(&mut self, path: &[&str], otherwise: Option<&str>) -> Option<String> {
        let given = self.take(path);
        let origin = given.as_ref().map_or("default".to_owned(), |g| g.origin.clone());
        let value = match given.map(|g| scalar(&g.value)) {
            Some(Ok(v)) => Some(v).filter(|v| !v.trim().is_empty()),
            Some(Err(what)) => {
                self.mistake(path, &what, &origin);
                None
            }
            None => None,
        };
        let shown = value.as_deref().or(otherwise).map(|v| quoted(&mask::text(v)));
        self.show(path, shown, &origin);
        value
    }

    /// A list of texts; one text is split at commas.
    pub(super) fn list(&mut self, path: &[&str], default: &[&str]) -> (Vec<String>, String) {
        let given = self.take(path);
        let origin = given.as_ref().map_or("default".to_owned(), |g| g.origin.clone());
        let parsed = given.map(|g| match &g.value {
            Value::Array(_, values) => values.iter().map(word).collect::<Result<Vec<_>, _>>(),
            one => word(one).map(|t| {
                let t = t.trim();
                let inner = t.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(t);
                inner
                    .split(',')
                    .map(|s| s.trim().trim_matches(['"', '\'']).to_owned())
                    .filter(|s| !s.is_empty())
                    .collect()
            }),
        });
        let value = match parsed {
            Some(Ok(v)) => v,
            other => {
                if let Some(Err(what)) = other {
                    self.mistake(path, &what, &origin);
                }
                default.iter().map(|s| (*s).to_owned()).collect()
            }
        };
        let shown = value.iter().map(|s| quoted(s)).collect::<Vec<_>>().join(", ");
        self.show(path, Some(format!("[{shown}]")), &origin);
        (value, origin)
    }

    /// A table as it is, each value with its path below the table (dots in names and nested tables are the same).
    pub(super) fn properties(&mut self, table: &str) -> Vec<(String, String, String)> {
        let mut out = Vec::new();
        match self.take(&[table]) {
            Some(Given { value: Value::Dict(_, dict), .. }) => {
                self.flatten(table, "", &dict, &mut out);
            }
            Some(g) => self.mistake(&[table], "must be a table", &g.origin),
            None => {}
        }
        out
    }

    fn flatten(&mut self, table: &str, prefix: &str, dict: &Dict, out: &mut Vec<(String, String, String)>) {
        for (key, value) in dict {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            if let Value::Dict(_, inner) = value {
                self.flatten(table, &name, inner, out);
                continue;
            }
            let origin = layers::origin(&self.figment, value, &[table, &name]);
            match scalar(value) {
                Ok(text) => out.push((name, text, origin)),
                Err(what) => self.mistake(&[table, &name], &what, &origin),
            }
        }
    }

    /// Names of the tables below a table.
    pub(super) fn tables(&mut self, table: &str) -> Vec<String> {
        match self.root.get(table) {
            None => Vec::new(),
            Some(Value::Dict(_, dict)) => dict.keys().cloned().collect(),
            Some(_) => {
                if let Some(g) = self.take(&[table]) {
                    self.mistake(&[table], "must be a table of tables", &g.origin);
                }
                Vec::new()
            }
        }
    }

    /// Whatever was not taken is unknown, and a mistake.
    pub(super) fn finish(&mut self, known: &[String]) {
        let root = std::mem::take(&mut self.root);
        let mut unknown = Vec::new();
        leaves(&root, &mut Vec::new(), &mut |path, value| {
            let keys: Vec<&str> = path.iter().map(String::as_str).collect();
            unknown.push((path.join("."), layers::origin(&self.figment, value, &keys)));
        });
        for (name, origin) in unknown {
            let near = known.iter().map(|k| (distance(k, &name), k)).min().filter(|(d, _)| *d <= 3);
            let hint = near.map_or(String::new(), |(_, k)| format!("; did you mean `{k}`?"));
            self.mistakes.push(one_line(&format!("{name}: no such setting{hint} ({origin})")));
        }
    }
}

/// Mistakes are listed one a line, whatever was given.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

fn leaves(dict: &Dict, path: &mut Vec<String>, f: &mut impl FnMut(&[String], &Value)) {
    for (key, value) in dict {
        path.push(key.clone());
        match value {
            Value::Dict(_, inner) => leaves(inner, path, f),
            leaf => f(path, leaf),
        }
        path.pop();
    }
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(_, s) => Ok(s.clone()),
        Value::Char(_, c) => Ok(c.to_string()),
        Value::Bool(_, b) => Ok(b.to_string()),
        Value::Num(_, n) => n
            .to_i128()
            .map(|n| n.to_string())
            .or_else(|| n.to_u128().map(|n| n.to_string()))
            .or_else(|| n.to_f64().map(|n| n.to_string()))
            .ok_or_else(|| "is not a number that can be read".to_owned()),
        Value::Empty(..) => Ok(String::new()),
        Value::Dict(..) => Err("must be one value, not a table".to_owned()),
        Value::Array(..) => Err("must be one value, not a list".to_owned()),
    }
}

/// A value that must be text: a number where a name is wanted is a slip.
fn word(value: &Value) -> Result<String, String> {
    match value {
        Value::String(_, s) => Ok(s.clone()),
        Value::Array(..) => Err("must be text or a list of texts, not a list in a list".to_owned()),
        Value::Dict(..) => Err("must be text or a list of texts, not a table".to_owned()),
        other => Err(format!("must be text or a list of texts, not `{}`", scalar(other)?)),
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Levenshtein's distance: how many letters to change, add or leave out.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.chars().enumerate() {
            let change = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
