//! JSON readings to Arrow columns, with every bad record isolated.
//!
//! A [`Decoder`] takes messages of Kafka and gives a
//! [`ReadingBatch`](fleetscore_schemas::reading::ReadingBatch): columns of readings, and a dead letter for each record
//! that is none. Nothing vanishes: a message leaves at least one reading or one dead letter.
//!
//! # Messages
//!
//! | shape | `position` of a record | bytes of a record (`payload` of its dead letter) |
//! | --- | --- | --- |
//! | one object, over one line or several | −1 | the whole message |
//! | an array of objects | index of the element | the element, without white space around it |
//! | lines of objects | number of the line from 0, blank lines counted | the line without its LF or CRLF |
//!
//! A record is `{"device": …, "sensor": …, "ts": …, "value": …}`, or wide: `{"device": …, "ts": …, "values": {sensor:
//! value, …}}`. Records of an array or of lines may be wide. Keys come in any order and may be escaped; other keys are
//! ignored, but must hold JSON (in a wide record that goes for `sensor` too).
//!
//! A message with one line is one object (or array), even if a newline ends it. A message that is one JSON value is
//! that, over however many lines. Any other message with several non-blank lines is **lines** if its first line is a
//! value or is broken by itself, or if some line begins with `{` and ends with `}`. If it begins with `[`, what counts
//! is a line that begins with `{`, ends with `}` and is not tied to its neighbours by a comma or bracket. An array as
//! a line is `wrong_type`.
//!
//! A UTF-8 byte order mark at the beginning of a message is passed over. White space is JSON's: space, tab, LF, CR.
//!
//! # What is accepted
//!
//! | field | accepted |
//! | --- | --- |
//! | `device`, `sensor` (keys of `values`) | a string of 1–256 bytes of UTF-8 without control characters (U+0000–U+001F, U+007F–U+009F), counted after escapes are resolved; or an integer, taken as it is written (`7` and `"7"` are the same device, `-0` is the name `-0`, `7.0` and `7e0` are refused) |
//! | `ts` as a string | RFC 3339: `T`, `t` or a space; `Z`, `z` or `±hh:mm` (−00:00 is UTC); a fraction of any length, floored to microseconds |
//! | `ts` as a number | any JSON number of [`DecodeOptions::ts_unit`] since 1970, floored to microseconds exactly (in decimal, not through floating point), also below zero |
//! | no `ts` | the broker's timestamp of the message, with [`DecodeOptions::ts_from_broker`] alone |
//! | `value` | a JSON number with \|v\| ≤ 1e100 once it is rounded to the nearest `f64`; −0 becomes 0, what is too small becomes 0 |
//!
//! # What is refused
//!
//! If several rows fit, the first one is the code. A sensor of `values` is judged once nothing is wrong with its record.
//!
//! | code | when | what is refused |
//! | --- | --- | --- |
//! | `too_large` | more than [`DecodeOptions::max_message_bytes`] | the message |
//! | `tombstone` | the message has no payload | the message |
//! | `empty` | the payload is empty, white space, or a byte order mark alone | the message |
//! | `not_utf8` | the record's bytes are not UTF-8, whatever else is wrong with them | the record: in lines and arrays the others count |
//! | `too_deep` | nested deeper than [`DecodeOptions::max_depth`]; the record itself is level 1, an array of records is not counted | the record |
//! | `syntax` | not JSON | see below |
//! | `syntax` | an escape `\uD800`–`\uDFFF` without its other half, in any string | the record |
//! | `wrong_type` | the record is no object | the record |
//! | `duplicate_key` | a key twice at the record's top level (used or not, however escaped), or a sensor twice in `values`, or both `value` and `values` | the record, all of a wide one |
//! | `missing_field` | no `device`, `sensor`, `ts` or `value`; `values` is `{}`; the message is `[]` | the record |
//! | `bad_name` | `device` or `sensor` is not as above | the record, or the sensor of `values` |
//! | `bad_time` | a string that is not as above: no zone, no such date, second 60 (leap seconds), a number in quotes; or neither string nor number | the record |
//! | `ts_range` | a time outside 2000..2100, numbers of any size included | the record |
//! | `wrong_type` | `values` is no object | the record |
//! | `bad_value` | a number beyond 1e100; a string, boolean, `null`, object or array; `NaN`, `Infinity`, `Inf` with or without a minus in any case, although they are not JSON (in any other place they are `syntax`) | the record, or the sensor of `values` |
//! | `series_limit` | one series more than [`DecodeOptions::max_series`] | the record, or the sensor of `values` |
//!
//! **Broken syntax** takes what cannot be told apart any more. In lines: the line. In one object: the message, also if
//! something follows the object on its line. In an array: the elements before it count, and the remainder of the
//! message from the element (or the stray bytes) where it broke is one dead letter with that element's index as its
//! position. Where only white space remains, the remainder begins right behind the last element, so an array that
//! lacks nothing but its bracket leaves a dead letter without bytes.
//!
//! **Wide records with bad sensors**: the good sensors count, and one dead letter for the whole record, with the code
//! of its first bad sensor, names the bad ones (up to 16) in its detail. To read its payload again therefore gives the
//! good sensors again.
//!
//! Beyond 10,000 dead letters in one batch their details are left out, and beyond 65,536 one
//! [`BadRecord`](fleetscore_schemas::reading::BadRecord) with a count stands for all of a message with the same code: what
//! decoding makes of a message is bounded by six times its size, and some megabytes.

mod decoder;
mod judge;
mod names;
mod number;
mod options;
mod record;
mod scan;
mod shape;
mod straight;
mod time;

#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use options::{DecodeOptions, FieldNames, TsUnit};
