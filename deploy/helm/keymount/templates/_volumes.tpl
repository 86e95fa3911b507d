{{- define "keymount.volumes" -}}
- name: plugin
  hostPath:
    path: {{ include "keymount.pluginDir" . }}
    type: DirectoryOrCreate
- name: registration
  hostPath:
    path: {{ .Values.kubeletRoot }}/plugins_registry
    type: Directory
- name: pods
  hostPath:
    path: {{ .Values.kubeletRoot }}/pods
    type: Directory
# What the driver knows of its mounts, never a secret. It must outlive the pod
# and vanish on reboot, as the mounts do.
- name: state
  hostPath:
    path: /run/keymount
    type: DirectoryOrCreate
{{- with .Values.audit.folder }}
- name: audit
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
{{- with .Values.metricsTLS.secretName }}
- name: metrics-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0400
{{- end }}
# What kubelet mounts into every container by itself, here for the driver alone.
- name: api
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
- name: sockets
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- range $i, $folder := .Values.thirdPartyProviders.folders }}
- name: third-party-{{ $i }}
  hostPath:
    path: {{ $folder }}
    type: DirectoryOrCreate
{{- end }}
{{- if has "file" .Values.providers.enabled }}
- name: store
  {{- toYaml (.Values.providers.file.volume | default (dict "emptyDir" dict)) | nindent 2 }}
{{- end }}
{{- with .Values.providers.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
