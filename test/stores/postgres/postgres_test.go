package postgres

import "testing"

func TestLoginTellsGoodFromBad(t *testing.T) {
	s := New(t)
	if err := s.Login(t.Context(), Owner, s.Password()); err != nil {
		t.Errorf("the owner cannot log in: %v", err)
	}
	for _, user := range []string{Owner, "nobody"} {
		if err := s.Login(t.Context(), user, "wrong"); !Refused(err) {
			t.Errorf("Login(%q) with a wrong password: %v, want a refusal", user, err)
		}
	}
	if roles := s.Roles(t); len(roles) != 0 {
		t.Errorf("roles of a new server: %q", roles)
	}
}
