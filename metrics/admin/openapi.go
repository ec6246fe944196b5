package admin

import (
	"reflect"
	"regexp"
	"strings"
	"time"
)

// Document is the API as OpenAPI 3.1, made of the table of operations and the
// types that they take and give.
func Document() map[string]any {
	schemas := make(map[string]any)
	failure := response("what was wrong", schemaOf(reflect.TypeFor[Failure](), schemas), "application/json")
	paths := make(map[string]any)
	for _, op := range operations {
		path := strings.ReplaceAll(op.path, "...}", "}")
		item, _ := paths[path].(map[string]any)
		if item == nil {
			item = make(map[string]any)
			paths[path] = item
		}
		item[strings.ToLower(op.method)] = op.document(failure, schemas)
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "CleverSocks management API", "version": "1"},
		"paths":   paths,
		"components": map[string]any{
			"schemas":         schemas,
			"securitySchemes": map[string]any{"token": map[string]any{"type": "http", "scheme": "bearer"}},
		},
		"security": []any{map[string]any{"token": []any{}}},
	}
}

var pathParameter = regexp.MustCompile(`\{(\w+)(\.\.\.)?\}`)

func (op operation) document(failure any, schemas map[string]any) map[string]any {
	parameters := []any{}
	add := func(name, in, doc string) {
		parameters = append(parameters, map[string]any{
			"name": name, "in": in, "description": doc, "required": in == "path", "schema": map[string]any{"type": "string"},
		})
	}
	for _, m := range pathParameter.FindAllStringSubmatch(op.path, -1) {
		add(m[1], "path", "")
	}
	for _, p := range op.query {
		add(p.name, "query", p.doc)
	}
	responses := map[string]any{"400": failure, "401": failure, "404": failure}
	if op.changes {
		responses["409"], responses["503"] = failure, failure
	}
	switch result := op.result.(type) {
	case nil:
		responses["204"] = map[string]any{"description": "done"}
	case plainText:
		responses["200"] = response(op.summary, map[string]any{"type": "string"}, "text/plain")
	default:
		kind := "application/json"
		if op.stream != nil {
			kind = "text/event-stream"
		}
		responses["200"] = response(op.summary, schemaOf(reflect.TypeOf(result), schemas), kind)
	}
	doc := map[string]any{"summary": op.summary, "parameters": parameters, "responses": responses}
	if op.body != nil {
		responses["413"] = failure
		doc["requestBody"] = map[string]any{
			"required": true, "content": map[string]any{"application/json": map[string]any{"schema": schemaOf(reflect.TypeOf(op.body), schemas)}},
		}
	}
	return doc
}

func response(description string, schema any, kind string) map[string]any {
	return map[string]any{"description": description, "content": map[string]any{kind: map[string]any{"schema": schema}}}
}

// schemaOf is a type as JSON schema. Structs are named and kept in schemas;
// what may be left out of them is not required.
func schemaOf(t reflect.Type, schemas map[string]any) map[string]any {
	if t == reflect.TypeFor[time.Time]() {
		return map[string]any{"type": "string", "format": "date-time"}
	}
	switch t.Kind() { //nolint:exhaustive // the rest is an object
	case reflect.Pointer:
		return schemaOf(t.Elem(), schemas)
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return map[string]any{"type": "object"}
		}
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), schemas)}
	}
	if _, known := schemas[t.Name()]; !known {
		properties, required := make(map[string]any), []any{}
		schemas[t.Name()] = nil // against a type that holds itself
		for _, field := range reflect.VisibleFields(t) {
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.Anonymous {
				continue // its fields follow
			}
			properties[name] = schemaOf(field.Type, schemas)
			if options != "omitempty" {
				required = append(required, name)
			}
		}
		schemas[t.Name()] = map[string]any{
			"type": "object", "properties": properties, "required": required, "additionalProperties": false,
		}
	}
	return map[string]any{"$ref": "#/components/schemas/" + t.Name()}
}
