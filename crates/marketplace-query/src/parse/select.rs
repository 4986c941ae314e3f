//! `SELECT`, and what follows its patterns.

use super::{Parser, Scope};
use crate::Error;
use crate::syntax::{Column, Element, Expression, Ordered, Select, Slot};
use crate::token::Token;

impl Parser<'_> {
    pub(super) fn select(&mut self) -> Result<Select, Error> {
        if !self.keyword("SELECT") {
            return Err(self.expected("SELECT"));
        }
        let is_distinct = self.keyword("DISTINCT") || self.keyword("REDUCED");
        let mut aggregates = Vec::new();
        let mut columns = Vec::new();
        let is_all = self.symbol("*");
        loop {
            if is_all {
                break;
            }
            if let Token::Variable(name) = self.peek().clone() {
                self.at += 1;
                let slot = self.slot(&name)?;
                columns.push(Column { slot, value: None });
            } else if self.symbol("(") {
                let value = self.expression(&mut Some(&mut aggregates))?;
                if !self.keyword("AS") {
                    return Err(self.expected("AS"));
                }
                let Token::Variable(name) = self.next() else {
                    self.at -= 1;
                    return Err(self.expected("the variable of a value"));
                };
                let slot = self.slot(&name)?;
                self.expect(")")?;
                columns.push(Column {
                    slot,
                    value: Some(value),
                });
            } else if columns.is_empty() {
                return Err(self.expected("a variable, or *"));
            } else {
                break;
            }
        }
        if self.is_keyword("FROM") {
            return Err(Error::NotAllowed(
                "FROM chooses nothing here; leave it out.".to_owned(),
            ));
        }
        let _ = self.keyword("WHERE");
        let group = self.group()?;
        if is_all {
            let scope = self.scopes.last();
            let names = scope.into_iter().flat_map(|scope| &scope.names);
            columns = names
                .map(|(_, slot)| Column {
                    slot: *slot,
                    value: None,
                })
                .collect();
        }
        let mut grouped_by = None;
        if self.keyword("GROUP") {
            if !self.keyword("BY") {
                return Err(self.expected("BY"));
            }
            let mut by = Vec::new();
            while let Some(one) = self.condition(&mut None)? {
                by.push(one);
            }
            grouped_by = Some(by);
        }
        if self.is_keyword("HAVING") {
            return Err(Error::NotSupported("HAVING".to_owned()));
        }
        let mut order = Vec::new();
        if self.keyword("ORDER") {
            if !self.keyword("BY") {
                return Err(self.expected("BY"));
            }
            loop {
                let descending = self.keyword("DESC");
                let is_said = descending || self.keyword("ASC");
                match self.condition(&mut Some(&mut aggregates))? {
                    Some(by) => order.push(Ordered { by, descending }),
                    None if is_said || order.is_empty() => {
                        return Err(self.expected("what to order by"));
                    }
                    None => break,
                }
            }
        }
        let (mut limit, mut offset) = (None, 0);
        loop {
            if self.keyword("LIMIT") {
                limit = Some(self.count()?);
            } else if self.keyword("OFFSET") {
                offset = self.count()?;
            } else {
                break;
            }
        }
        if self.is_keyword("VALUES") {
            return Err(Error::NotSupported("VALUES".to_owned()));
        }
        if !aggregates.is_empty() {
            grouped_by.get_or_insert_with(Vec::new);
        }
        if let Some(by) = &grouped_by {
            for column in &columns {
                if column.value.is_none() && !by.contains(&Expression::Variable(column.slot)) {
                    return Err(Error::NotSupported(
                        "a variable of SELECT that is neither in GROUP BY nor in COUNT, MIN, MAX or SAMPLE".to_owned(),
                    ));
                }
            }
        }
        Ok(Select {
            is_distinct,
            columns,
            group,
            grouped_by,
            aggregates,
            order,
            limit,
            offset,
        })
    }

    /// A variable, a call or something in brackets, as `GROUP BY` and `ORDER BY` have them.
    fn condition(
        &mut self,
        aggregates: &mut super::expression::Aggregates<'_>,
    ) -> Result<Option<Expression>, Error> {
        match self.peek() {
            Token::Variable(_) => {}
            Token::Symbol("(") => {}
            Token::Word(word)
                if ![
                    "HAVING", "ORDER", "LIMIT", "OFFSET", "VALUES", "ASC", "DESC",
                ]
                .iter()
                .any(|keyword| word.eq_ignore_ascii_case(keyword)) => {}
            _ => return Ok(None),
        }
        self.primary(aggregates).map(Some)
    }

    fn count(&mut self) -> Result<usize, Error> {
        if let Token::Integer(number) = self.peek()
            && let Ok(number) = usize::try_from(*number)
        {
            self.at += 1;
            return Ok(number);
        }
        Err(self.expected("a number"))
    }

    /// A query inside a group, behind its `{`.
    pub(super) fn inner_select(&mut self) -> Result<Element, Error> {
        self.scopes.push(Scope::default());
        let select = self.deeper(Self::select);
        let scope = self.scopes.pop().unwrap_or_default();
        let select = select?;
        let mut pairs: Vec<(Slot, Slot)> = Vec::new();
        for (name, inner) in scope.names {
            if select.columns.iter().any(|column| column.slot == inner) {
                pairs.push((inner, self.slot(&name)?));
            }
        }
        Ok(Element::Select(Box::new(select), pairs))
    }
}
