//! Medians of paired rounds, and how far to believe them.

use std::fmt;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 4000;

/// The interval is the same for the same rounds, whoever asks.
const SEED: u64 = 0x6b6f_6c6b;

/// Below so many rounds a resample says nothing.
const ENOUGH: usize = 3;

/// A median, with the interval in which 95 of 100 bootstrap resamples have theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    /// `None` of too few rounds.
    pub(crate) interval: Option<(f64, f64)>,
}

/// What an estimated ratio says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Above,
    Below,
    /// The interval spans 1.
    NoDifference,
    /// There is no interval.
    TooFewRounds,
}

impl Estimate {
    /// `None` of nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = (!sorted.is_empty()).then(|| quantile(&sorted, 0.5))?;
        let interval = (sorted.len() >= ENOUGH).then(|| bootstrap(&sorted));
        Some(Self { median, interval })
    }

    /// Of a ratio.
    pub(crate) fn verdict(self) -> Verdict {
        match self.interval {
            None => Verdict::TooFewRounds,
            Some((low, _)) if low > 1.0 => Verdict::Above,
            Some((_, high)) if high < 1.0 => Verdict::Below,
            Some(_) => Verdict::NoDifference,
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.interval {
            Some((low, high)) => write!(out, "{:.2} [{low:.2}, {high:.2}]", self.median),
            None => write!(out, "{:.2}", self.median),
        }
    }
}

/// The percentile bootstrap of the median.
fn bootstrap(values: &[f64]) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut sample = vec![0.0; values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            sample.fill_with(|| values[random.usize(..values.len())]);
            sample.sort_by(f64::total_cmp);
            quantile(&sample, 0.5)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (quantile(&medians, 0.025), quantile(&medians, 0.975))
}

/// Of at least one value; interpolates linearly between the two nearest of the sorted values.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let position = part * (sorted.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_interpolated_and_its_interval_lies_around_it() {
        let estimate = Estimate::of(&[1.4, 1.1, 1.3, 1.2]).unwrap();
        assert!((estimate.median - 1.25).abs() < 1e-9);
        let (low, high) = estimate.interval.unwrap();
        assert!(1.1 <= low && low <= estimate.median && estimate.median <= high && high <= 1.4);
        assert_eq!(
            Estimate::of(&[1.4, 1.1, 1.3, 1.2]),
            Some(estimate),
            "the seed is fixed"
        );
    }

    #[test]
    fn an_interval_narrows_with_more_rounds() {
        let width = |count: usize| {
            let values: Vec<f64> = (0..count)
                .map(|n| 1.0 + (n * 7 % 10) as f64 / 100.0)
                .collect();
            let (low, high) = Estimate::of(&values).unwrap().interval.unwrap();
            high - low
        };
        assert!(width(200) < width(10) / 1.5, "{} {}", width(200), width(10));
    }

    #[test]
    fn a_verdict_needs_an_interval_on_one_side_of_one() {
        let verdict = |values: &[f64]| Estimate::of(values).unwrap().verdict();
        assert_eq!(verdict(&[1.1, 1.2, 1.3]), Verdict::Above);
        assert_eq!(verdict(&[0.7, 0.8, 0.9]), Verdict::Below);
        assert_eq!(verdict(&[0.9, 1.0, 1.1]), Verdict::NoDifference);
        assert_eq!(verdict(&[2.0, 2.0]), Verdict::TooFewRounds);
        assert_eq!(Estimate::of(&[]), None);
    }
}
