//! Paired, interleaved runs and what can be said of them.
//!
//! The machine drifts between speeds over seconds, so a run with is compared only with the run
//! without beside it, and the order alternates: A B, B A, A B, ...

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One run without and one run with, side by side, in the same unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) without: f64,
    pub(crate) with: f64,
}

/// Runs `count` pairs, alternating which comes first.
pub(crate) fn interleave(
    count: usize,
    mut without: impl FnMut() -> Result<f64>,
    mut with: impl FnMut() -> Result<f64>,
) -> Result<Vec<Pair>> {
    (0..count)
        .map(|index| {
            Ok(if index % 2 == 0 {
                let without = without()?;
                Pair { without, with: with()? }
            } else {
                let with = with()?;
                Pair { without: without()?, with }
            })
        })
        .collect()
}

/// Where a set of figures lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) min: f64,
    pub(crate) quartile_1: f64,
    pub(crate) median: f64,
    pub(crate) quartile_3: f64,
    pub(crate) max: f64,
    /// The interval that holds the true median with 95 % confidence; `None` below 6 figures, of
    /// which no two can say that.
    pub(crate) median_95: Option<(f64, f64)>,
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            min: *sorted.first()?,
            quartile_1: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            quartile_3: quantile(&sorted, 0.75),
            max: *sorted.last()?,
            median_95: rank_below_median(sorted.len())
                .map(|rank| (sorted[rank], sorted[sorted.len() - 1 - rank])),
        })
    }
}

/// Of sorted figures, between ranks by straight line (R's type 7).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 figures")]
    let place = share * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// The index from either end of `count` sorted figures between which the true median lies with at
/// least 95 % confidence, whatever the distribution: each figure is below it with probability 1/2
/// (the sign test turned round; Conover, Practical Nonparametric Statistics, 3.2).
fn rank_below_median(count: usize) -> Option<usize> {
    let mut term = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut below = 0.0;
    let mut rank = None;
    for index in 0..count {
        below += term;
        if below > 0.025 {
            break;
        }
        rank = Some(index);
        #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 figures")]
        let (left, next) = ((count - index) as f64, (index + 1) as f64);
        term *= left / next;
    }
    rank
}

/// What pairs of runs say of the cost of what is in one of them only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    /// With by without, of each pair.
    pub(crate) ratio: Spread,
    pub(crate) without: Spread,
    pub(crate) with: Spread,
    pub(crate) pairs: Vec<Pair>,
}

impl Ratio {
    /// Of at least one pair.
    pub(crate) fn of(pairs: Vec<Pair>) -> Option<Self> {
        Some(Self {
            ratio: Spread::of(pairs.iter().map(|pair| pair.with / pair.without))?,
            without: Spread::of(pairs.iter().map(|pair| pair.without))?,
            with: Spread::of(pairs.iter().map(|pair| pair.with))?,
            pairs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_ranks() {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied()).unwrap();
        let one = of(&[7.0]);
        assert_eq!((one.min, one.quartile_1, one.median, one.max), (7.0, 7.0, 7.0, 7.0));
        let four = of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((four.quartile_1, four.median, four.quartile_3), (1.75, 2.5, 3.25));
        let five = of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((five.quartile_1, five.median, five.quartile_3), (2.0, 3.0, 4.0));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ranks_around_the_median_are_those_of_the_tables() {
        // Table of the sign test's order statistics, counted from 1 there.
        for (count, rank) in [(5, None), (6, Some(1)), (8, Some(1)), (9, Some(2)), (20, Some(6))] {
            assert_eq!(rank_below_median(count).map(|index| index + 1), rank, "{count}");
        }
        assert_eq!(rank_below_median(50).map(|index| index + 1), Some(18));
    }

    #[test]
    fn order_alternates_between_pairs() {
        let order = std::cell::RefCell::new(String::new());
        let run = |name| {
            order.borrow_mut().push(name);
            Ok(f64::from(u32::from(name)))
        };
        let pairs = interleave(3, || run('a'), || run('b')).unwrap();
        assert_eq!(*order.borrow(), "abbaab");
        assert!(pairs.iter().all(|pair| *pair == Pair { without: 97.0, with: 98.0 }));
    }

    #[test]
    fn ratio_is_the_pairs_own_not_that_of_the_medians() {
        // The machine was three times slower during the second pair.
        let pairs = [(1.0, 1.1), (3.0, 3.3), (1.0, 1.1)];
        let pairs = pairs.map(|(without, with)| Pair { without, with }).to_vec();
        let ratio = Ratio::of(pairs).unwrap().ratio;
        assert!((ratio.min - 1.1).abs() < 1e-9 && (ratio.max - 1.1).abs() < 1e-9);
    }

    #[test]
    fn failed_run_ends_it() {
        assert!(interleave(2, || Ok(1.0), || anyhow::bail!("no")).is_err());
    }
}
