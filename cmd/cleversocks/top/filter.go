package top

import "strings"

// Filter says which sessions are shown: those that meet all of it.
type Filter struct {
	User, Client, Target, Listener string // as the API has them; "": any
	Words                          string // anything else, which user, client, target or listener have a part of
}

// parseFilter reads what a person types: "user:alice target:example.com", words, or
// both.
func parseFilter(text string) (f Filter) {
	var words []string
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, ":")
		switch key {
		case "user":
			f.User = value
		case "client":
			f.Client = value
		case "target":
			f.Target = value
		case "listener":
			f.Listener = value
		default:
			words = append(words, word)
		}
	}
	f.Words = strings.Join(words, " ")
	return f
}
