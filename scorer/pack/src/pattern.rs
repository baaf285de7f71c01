//! How the names of models are made of device and sensor.

use crate::{MAX_NAME, PackError};
use std::fmt::{self, Write};

/// Text with `{device}` and `{sensor}` in it, each at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Device,
    Sensor,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, PackError> {
        let refused = |why: &str| {
            Err(PackError::Text {
                what: "pattern",
                text: text.chars().take(40).collect(),
                why: why.to_owned(),
            })
        };
        if text.len() > MAX_NAME {
            return refused("it is too long");
        }
        if text.matches("{device}").count() > 1 || text.matches("{sensor}").count() > 1 {
            return refused("a placeholder stands in it twice");
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let next = [("{device}", Piece::Device), ("{sensor}", Piece::Sensor)]
                .into_iter()
                .filter_map(|(name, piece)| Some((rest.find(name)?, name.len(), piece)))
                .min_by_key(|(at, ..)| *at);
            let Some((at, len, piece)) = next else {
                pieces.push(Piece::Literal(rest.to_owned()));
                break;
            };
            if at > 0 {
                pieces.push(Piece::Literal(rest[..at].to_owned()));
            }
            pieces.push(piece);
            rest = &rest[at + len..];
        }
        Ok(Self { text: text.to_owned(), pieces })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Writes the name of a series' model.
    pub(crate) fn write(&self, out: &mut impl Write, device: &str, sensor: &str) -> fmt::Result {
        for piece in &self.pieces {
            out.write_str(match piece {
                Piece::Literal(text) => text,
                Piece::Device => device,
                Piece::Sensor => sensor,
            })?;
        }
        Ok(())
    }

    /// Whether this is the name that [`Pattern::write`] would write.
    pub(crate) fn is(&self, name: &str, device: &str, sensor: &str) -> bool {
        let mut rest = Some(name);
        for piece in &self.pieces {
            let text: &str = match piece {
                Piece::Literal(text) => text,
                Piece::Device => device,
                Piece::Sensor => sensor,
            };
            rest = rest.and_then(|r| r.strip_prefix(text));
        }
        rest == Some("")
    }
}
