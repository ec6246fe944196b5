package config

import (
	"encoding"
	"encoding/json"
	"io"
	"reflect"
	"strings"
)

// object is a node of a JSON document.
type object = map[string]any

// WriteSchema writes a JSON Schema (draft 2020-12) of the TOML file, for
// editors: names, types, choices and the documentation. It is made from the
// same table as everything else, and is no stricter than the loader.
func WriteSchema(w io.Writer) error {
	var c Config
	root := newTable("The settings of CleverSocks.")
	for _, sec := range c.sections() {
		parent, name := root, sec.name
		if at := strings.LastIndexByte(name, '.'); at >= 0 {
			parent, name = descendTable(root, name[:at]), name[at+1:]
		}
		node := newTable(sec.doc)
		if existing, ok := properties(parent)[name].(object); ok {
			node = existing
		}
		for i := range sec.keys {
			addKey(node, &sec.keys[i])
		}
		if sec.isArray() {
			properties(parent)[name] = object{"type": "array", "description": sec.doc, "items": node}
		} else {
			properties(parent)[name] = node
		}
	}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "cleversocks.toml"
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(root)
}

// newTable is a TOML table that has no other keys than those added to it.
func newTable(doc string) object {
	return object{"type": "object", "description": doc, "properties": object{}, "additionalProperties": false}
}

func properties(table object) object {
	p, _ := table["properties"].(object)
	return p
}

// descendTable is the table at a dotted path below one, made as needed.
func descendTable(table object, path string) object {
	for name := range strings.SplitSeq(path, ".") {
		next, ok := properties(table)[name].(object)
		if !ok {
			next = newTable("")
			delete(next, "description")
			properties(table)[name] = next
		}
		table = next
	}
	return table
}

func addKey(table object, k *Key) {
	name := k.Name
	if at := strings.LastIndexByte(name, '.'); at >= 0 {
		table, name = descendTable(table, name[:at]), name[at+1:]
	}
	schema := typeSchema(reflect.TypeOf(k.Value).Elem())
	if len(k.Choices) > 0 {
		schema = object{"enum": k.Choices}
	}
	schema["description"] = k.Doc
	if schema["type"] == "integer" {
		for limit, text := range map[string]string{"minimum": k.Min, "maximum": k.Max} {
			if text != "" {
				schema[limit] = json.Number(text)
			}
		}
	}
	properties(table)[name] = schema
}

// typeSchema is what setValue takes from a TOML file for a field of a type.
func typeSchema(t reflect.Type) object {
	field := reflect.New(t)
	if _, ok := reflect.TypeAssert[tableSetter](field); ok {
		return object{"type": "object", "additionalProperties": object{"type": "string"}}
	}
	if _, ok := reflect.TypeAssert[encoding.TextUnmarshaler](field); ok {
		types := []string{"string"}
		if _, ok := reflect.TypeAssert[integerAccepter](field); ok {
			types = append(types, "integer")
		}
		if _, ok := reflect.TypeAssert[boolAccepter](field); ok {
			types = append(types, "boolean")
		}
		schema := object{"type": types}
		if len(types) == 1 {
			schema["type"] = types[0]
		}
		if form, ok := reflect.TypeAssert[interface{ pattern() string }](field.Elem()); ok {
			schema["pattern"] = form.pattern() // of what is a string
		}
		return schema
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Slice:
		list := object{"type": "array", "maxItems": maxList, "items": typeSchema(t.Elem())}
		if _, alone := reflect.TypeAssert[interface{ standsAlone() }](reflect.Zero(t.Elem())); alone {
			return object{"anyOf": []object{list, typeSchema(t.Elem())}}
		}
		return list
	default:
		return object{"type": "string"}
	}
}
