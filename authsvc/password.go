package authsvc

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// ReadPassword asks for a password twice when in is a terminal, prompting on
// prompt, and reads one line of in otherwise (without its line end; other
// bytes are the password's). An empty password is an error.
func ReadPassword(in *os.File, prompt io.Writer) ([]byte, error) {
	fd := int(in.Fd())
	if !term.IsTerminal(fd) {
		return readPasswordLine(in)
	}
	first, err := ask(fd, prompt, "Password: ")
	if err != nil {
		return nil, err
	}
	second, err := ask(fd, prompt, "Again: ")
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(first, second) != 1 {
		return nil, errors.New("the two passwords differ")
	}
	return checked(first)
}

// AskPassword is ReadPassword for one that is there already: it asks once.
func AskPassword(in *os.File, prompt io.Writer) ([]byte, error) {
	fd := int(in.Fd())
	if !term.IsTerminal(fd) {
		return readPasswordLine(in)
	}
	password, err := ask(fd, prompt, "Password: ")
	if err != nil {
		return nil, err
	}
	return checked(password)
}

func ask(fd int, prompt io.Writer, text string) ([]byte, error) {
	if _, err := io.WriteString(prompt, text); err != nil {
		return nil, err
	}
	password, err := term.ReadPassword(fd)
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	_, err = io.WriteString(prompt, "\n")
	return password, err
}

func readPasswordLine(in io.Reader) ([]byte, error) {
	// One byte more than a line may have tells that it is too long.
	data, err := io.ReadAll(io.LimitReader(in, maxPassword+3))
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return checked(bytes.TrimSuffix(line, []byte("\r")))
}

func checked(password []byte) ([]byte, error) {
	if err := CheckPassword(password); err != nil {
		return nil, err
	}
	return password, nil
}

// CheckPassword is nil for a password that somebody can log in with.
func CheckPassword(password []byte) error {
	switch {
	case len(password) == 0:
		return errors.New("the password is empty")
	case len(password) > maxPassword:
		return fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	return nil
}
