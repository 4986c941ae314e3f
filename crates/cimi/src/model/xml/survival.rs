//! Any document that the model can produce survives JSON → XML → JSON.

use proptest::{prelude::*, strategy::Union};
use serde_json::{Map, Value, json};

use super::{
    super::{
        Access, Attribute, COMMON, Kind, Representation, Shape, describe, render as render_json,
        render_collection as render_json_collection, scalar::is_character,
    },
    Expected, read, render, render_collection,
};
use crate::query::Select;

fn text() -> impl Strategy<Value = String> {
    let any = prop::collection::vec(
        any::<char>().prop_filter("in XML", |c| is_character(*c)),
        1..12,
    )
    .prop_map(|all| all.into_iter().collect::<String>());
    prop_oneof!["[ \t\n\ra-z<>&'\"\\]]{1,12}", any]
}

/// A value of a shape, as views make them: nothing is empty.
fn value(shape: Shape, depth: usize) -> BoxedStrategy<Value> {
    let href = "[A-Z][a-z]{2,8}/[0-9a-f]{1,8}".prop_map(|href| json!({"href": href}));
    match shape {
        Shape::Boolean => any::<bool>().prop_map(Value::from).boxed(),
        Shape::Integer => any::<i64>().prop_map(Value::from).boxed(),
        Shape::Decimal => prop_oneof![
            any::<u32>().prop_map(Value::from),
            any::<u32>().prop_map(|hundredths| Value::from(f64::from(hundredths) / 100.0))
        ]
        .boxed(),
        Shape::Ref(_) | Shape::Collection(_) => href.boxed(),
        Shape::RefOrValue(kind) if depth < 3 => {
            let fields: Vec<&Attribute> = describe(kind).attributes.iter().collect();
            prop_oneof![href, members(fields, depth + 1).prop_map(Value::Object)].boxed()
        }
        Shape::RefOrValue(_) => href.boxed(),
        Shape::Map => prop::collection::btree_map(text(), text(), 1..4)
            .prop_map(|entries| json!(entries))
            .boxed(),
        Shape::Struct(fields) | Shape::Flattened(fields, _) => {
            members(fields.iter().collect(), depth + 1)
                .prop_map(Value::Object)
                .boxed()
        }
        Shape::Array(inner) => prop::collection::vec(value(*inner, depth + 1), 1..4)
            .prop_map(Value::Array)
            .boxed(),
        _ => text().prop_map(Value::from).boxed(),
    }
}

/// Some of these attributes, at least one.
fn members(fields: Vec<&Attribute>, depth: usize) -> BoxedStrategy<Map<String, Value>> {
    let some: Vec<_> = fields
        .iter()
        .filter(|field| field.access != Access::Secret)
        .map(|field| (Just(field.name.to_owned()), value(field.shape, depth)))
        .map(|pair| prop::option::weighted(if depth == 0 { 0.8 } else { 0.6 }, pair))
        .collect();
    let all = prop::collection::vec(Just(()), 0..1).prop_flat_map(move |_| some.clone());
    all.prop_map(|all| all.into_iter().flatten().collect::<Map<_, _>>())
        .prop_filter("something", |members| !members.is_empty())
        .boxed()
}

fn resource() -> impl Strategy<Value = (Kind, Map<String, Value>)> {
    let shown = |field: &&Attribute| !matches!(field.shape, Shape::Collection(_));
    let of = move |kind: Kind| {
        let fields = COMMON.iter().chain(describe(kind).attributes).filter(shown);
        members(fields.collect(), 0).prop_map(move |members| (kind, members))
    };
    Union::new(Kind::ALL.iter().map(move |kind| of(*kind).boxed()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn resources_and_collections_survive((kind, attributes) in resource(), select in any::<bool>()) {
        let mut chosen = Select::All;
        if select {
            chosen.add("name,properties,state,operations");
        }
        let id = format!("{kind}/7");
        let operations = [("edit".to_owned(), id.clone()), ("stop".to_owned(), format!("{id}/stop"))];
        let representation = Representation {
            kind, id: &id, attributes: &attributes, select: &chosen, operations: &operations,
        };
        let (mut json, mut xml) = (Vec::new(), Vec::new());
        render_json(&representation, &mut json);
        render(&representation, &mut xml);
        let wanted: Value = serde_json::from_slice(&json).unwrap();
        let text = std::str::from_utf8(&xml).unwrap();
        prop_assert_eq!(read(text, Expected::Representation(kind)), Ok(wanted), "{}", text);

        let (mut all_json, mut all_xml) = (Vec::new(), Vec::new());
        render_json_collection(kind, kind.name(), 9, [&json[..], &json[..]], true, &mut all_json);
        render_collection(kind, kind.name(), 9, [&xml[..], &xml[..]], true, &mut all_xml);
        let wanted: Value = serde_json::from_slice(&all_json).unwrap();
        let text = std::str::from_utf8(&all_xml).unwrap();
        prop_assert_eq!(read(text, Expected::Collection(kind)), Ok(wanted), "{}", text);
    }
}
