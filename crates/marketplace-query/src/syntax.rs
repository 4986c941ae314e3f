//! A query, read.

use crate::data::Property;
use crate::term::Constant;

/// Which variable, by its number.
pub(crate) type Slot = usize;

/// A query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub(crate) select: Select,
    /// Names of the variables of the answer, in order.
    pub(crate) names: Vec<String>,
    /// How many variables there are, those without a name included.
    pub(crate) slots: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Select {
    pub(crate) is_distinct: bool,
    pub(crate) columns: Vec<Column>,
    pub(crate) group: Group,
    /// `GROUP BY`, or `Some` of nothing if there are aggregates without.
    pub(crate) grouped_by: Option<Vec<Expression>>,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) order: Vec<Ordered>,
    pub(crate) limit: Option<usize>,
    pub(crate) offset: usize,
}

/// A column of the answer: a variable, and what it is if it isn't bound by the patterns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) slot: Slot,
    pub(crate) value: Option<Expression>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ordered {
    pub(crate) by: Expression,
    pub(crate) descending: bool,
}

/// What is in `{ }`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Group {
    pub(crate) elements: Vec<Element>,
    /// They hold for all of the group, wherever they stand in it.
    pub(crate) filters: Vec<Expression>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Element {
    Triples(Vec<Triple>),
    Group(Group),
    Optional(Group),
    Union(Vec<Group>),
    /// With its variables inside and outside.
    Select(Box<Select>, Vec<(Slot, Slot)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Triple {
    pub(crate) subject: Part,
    pub(crate) predicate: Verb,
    pub(crate) object: Part,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Variable(Slot),
    Constant(Constant),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verb {
    Variable(Slot),
    Property(Property),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    Variable(Slot),
    Constant(Constant),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Compare(Comparison, Box<Expression>, Box<Expression>),
    /// Whether it is one of these.
    In(Box<Expression>, Vec<Expression>),
    Call(Function, Vec<Expression>),
    Bound(Slot),
    Exists(Group),
    /// By its number.
    Aggregate(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Regex,
    Str,
    LowerCase,
    UpperCase,
    Length,
    Contains,
    Starts,
    Ends,
    IsIri,
    IsBlank,
    IsLiteral,
    Coalesce,
    If,
    Integer,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) kind: Kind,
    pub(crate) is_distinct: bool,
    /// `None`: each row counts.
    pub(crate) of: Option<Expression>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Count,
    Min,
    Max,
    Sample,
}
