//! The shape of a load: connections, bytes of a message, messages under way.

use std::fmt;
use std::str::FromStr;

/// `100x64x16`: 100 connections, 64 bytes a message, 16 messages sent before an answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) connections: u32,
    pub(crate) bytes: u32,
    pub(crate) depth: u32,
}

impl Shape {
    /// Small messages, many connections, pipelining, large messages.
    pub(crate) const USUAL: [Self; 4] = [
        Self::new(100, 64, 1),
        Self::new(1000, 1024, 1),
        Self::new(100, 64, 16),
        Self::new(50, 64 * 1024, 1),
    ];

    const fn new(connections: u32, bytes: u32, depth: u32) -> Self {
        Self {
            connections,
            bytes,
            depth,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            bytes,
            depth,
        } = self;
        out.pad(&format!("{connections}x{bytes}x{depth}"))
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse().ok().filter(|&number: &u32| number > 0);
        let parts: Option<Vec<u32>> = text.split('x').map(number).collect();
        match parts.as_deref() {
            Some(&[connections, bytes]) => Ok(Self::new(connections, bytes, 1)),
            Some(&[connections, bytes, depth]) => Ok(Self::new(connections, bytes, depth)),
            _ => Err(
                "expected CONNECTIONSxBYTES or CONNECTIONSxBYTESxDEPTH, such as 100x64x16"
                    .to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;

    #[test]
    fn a_shape_without_a_depth_has_depth_one() {
        assert_eq!("100x64".parse(), Ok(Shape::new(100, 64, 1)));
        assert_eq!("100x64x16".parse(), Ok(Shape::new(100, 64, 16)));
    }

    #[test]
    fn what_is_not_two_or_three_positive_numbers_is_refused() {
        for wrong in [
            "", "100", "100x", "x64", "0x64", "100x64x0", "1x2x3x4", "100x64k", "-1x2",
        ] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong:?} was accepted");
        }
    }
}
