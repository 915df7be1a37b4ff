package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// parseWebURL reads an http or https URL. Its errors hold no part of it.
func parseWebURL(raw string) (*url.URL, error) {
	u, err := parseServerURL(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errUnreadable
	}
	return u, nil
}

// get asks for a page, as user if there is one, and has its text read. No error holds
// the URL, nor the password.
func get(ctx context.Context, page string, user *url.Userinfo, read func(text io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return errUnreadable
	}
	if user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return errors.New("it answers " + answer.Status)
	}
	if err := read(answer.Body); err != nil {
		return fmt.Errorf("its answer cannot be read: %w", err)
	}
	return nil
}
