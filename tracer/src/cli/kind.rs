//! Kinds of findings on the command line, spelled as contracts spell them.

use clap::{ValueEnum, builder::PossibleValue};

use crate::lineage::FindingKind;

impl ValueEnum for FindingKind {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}
